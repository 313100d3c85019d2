"""`python -m evalkit`."""

from __future__ import annotations

import sys

from evalkit.cli.main import main

sys.exit(main())
