"""Keeps one core busy for a part of the time, with what daemon, API servers and clients do most: reading JSON.

python companion.py 0.5
"""

import json
import sys
import time

PAUSE_S = 0.005
TOKENS = 2000


def main(busy: float) -> None:
    """Until it is killed."""
    body = json.dumps({"prompt": list(range(TOKENS))})
    began_s = time.monotonic() - time.thread_time()
    while True:
        if time.thread_time() < busy * (time.monotonic() - began_s):
            json.dumps(json.loads(body))
        else:
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main(float(sys.argv[1]))
