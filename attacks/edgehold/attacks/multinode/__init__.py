"""A testbed of many nodes from one file: a server, honest devices, liars, and links between them that delay, lose and break.

    deploy/testbed --backend process|netns|compose [deploy/testbed.toml]
    deploy/chaos cut dev-3 --for 30

Three runs as in the demo (nobody lies; liars against the undefended rule; the same liars against the defended one), each on the
real daemons over the real protocol. What carries the nodes is a backend: plain processes, network namespaces, or containers.
"""
