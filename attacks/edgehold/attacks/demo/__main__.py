"""`python -m edgehold.attacks.demo`: what scripts/demo calls."""

from edgehold.attacks.demo.app import main

if __name__ == "__main__":
    main()
