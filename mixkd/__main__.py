"""`python -m mixkd` and `torchrun -m mixkd`: the same as the `mixkd` command."""

from mixkd.cli import main

raise SystemExit(main())
