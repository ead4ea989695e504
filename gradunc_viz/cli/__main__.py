"""``python -m gradunc_viz.cli`` is ``gradunc``."""

import sys

from .main import main

sys.exit(main())
