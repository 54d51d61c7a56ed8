"""The chart, rendered by the real helm: needs no cluster, only that helm is built."""
