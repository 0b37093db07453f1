"""Puts the parts together and runs them: ``assemble`` is the composition root, ``worker`` one process's life."""
