import sys

from nvdra_mock_nvml.cli import main

sys.exit(main())
