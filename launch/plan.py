import sys

from prs_med.programs.plan import main

sys.exit(main(sys.argv[1:]))
