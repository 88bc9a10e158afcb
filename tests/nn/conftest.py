import sys
from pathlib import Path

# Tests are imported without their folder on the path.
sys.path.append(str(Path(__file__).parent))
