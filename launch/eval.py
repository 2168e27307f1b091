import sys

from prs_med.programs.evaluate import main

sys.exit(main(sys.argv[1:]))
