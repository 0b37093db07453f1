"""The configuration: YAML, or environment variables alone, to the values that the gateway runs on.

Others use ``load.load``, ``schema.json_schema`` and ``faults``. The way of a file: ``parse`` (text to a tree with places),
``references`` (`${NAME}`), ``reserved`` (not supported yet), ``validate`` and ``schema`` (types and rules), ``snapshot``
(the gateway's values); ``lint`` warns of what is allowed and looks wrong.
"""
