"""``python -m sparseplan``."""

from sparseplan.cli import main

raise SystemExit(main())
