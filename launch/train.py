import sys

from prs_med.programs.train import main

sys.exit(main(sys.argv[1:]))
