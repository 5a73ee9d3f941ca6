"""A verb that knows no signals."""

import time

if __name__ == "__main__":
    print("asleep")
    time.sleep(600)
