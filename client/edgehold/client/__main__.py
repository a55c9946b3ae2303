"""`python -m edgehold.client` is `fl-client`."""

from edgehold.client.app import main

if __name__ == "__main__":
    main()
