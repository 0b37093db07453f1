"""The recipes of ``config/examples/recipes``, each against a stand-in of its vendor's token endpoint."""
