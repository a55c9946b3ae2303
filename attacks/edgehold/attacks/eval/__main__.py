"""`python -m edgehold.attacks.eval`: the same as `fl-eval`."""

from edgehold.attacks.eval.app import main

if __name__ == "__main__":
    main(prog_name="fl-eval")
