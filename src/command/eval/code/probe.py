"""Says as JSON from what the system keeps a program that runs in FOLDER: probe FOLDER."""
import json
import os
import sys


def can_write(path):
    try:
        with open(path, "w"):
            return True
    except OSError:
        return False


def has_network():
    try:
        with open("/proc/self/net/dev") as file:
            return any(line.split(":")[0].strip() != "lo" for line in file.readlines()[2:])
    except OSError:
        return True


folder = sys.argv[1]
assert can_write(os.path.join(folder, "inside")), "the folder must be writable"
print(json.dumps({
    "files": not can_write(folder + ".outside"),
    "network": not has_network(),
    "processes": os.getpid() < 3,
}))
