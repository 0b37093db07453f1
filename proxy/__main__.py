"""``python -m proxy`` is the same program as ``bearer-proxy``."""

import sys

from proxy.cli import main

sys.exit(main())
