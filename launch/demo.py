import sys

from prs_med.programs.demo import main

sys.exit(main(sys.argv[1:]))
