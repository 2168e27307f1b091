import sys

from prs_med.programs.infer import main

sys.exit(main(sys.argv[1:]))
