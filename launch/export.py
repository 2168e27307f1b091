import sys

from prs_med.programs.export import main

sys.exit(main(sys.argv[1:]))
