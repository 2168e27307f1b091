import sys

from prs_med.programs.data import main

sys.exit(main(sys.argv[1:]))
