"""Where a request goes, and when: the index of what every GPU caches, E2, and the queue before each engine. Pure."""
