"""What an audit log proves."""

import json


def events(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def judge(path, memory_mib):
    """What is wrong in an audit log, as a list, and how many leases began and ended; a "started" line means that everything
    before it is over. `memory_mib`: of every GPU."""
    wrong, held, began, ended = [], {}, 0, 0
    for event in events(path):
        if event["event"] == "started":
            held.clear()
        elif event["event"] == "lease":
            began += 1
            held[event["lease"]] = ([int(g) for g in event["gpus"].split(",")], event["mib"])
            for gpu in {g for gpus, _ in held.values() for g in gpus}:
                promised = sum(mib for gpus, mib in held.values() if gpu in gpus)
                if promised > memory_mib:
                    wrong.append(f"GPU {gpu}: {promised} of {memory_mib} MiB promised at {event['time']}")
        elif event["event"] == "lease-ended":
            ended += 1
            if held.pop(event["lease"], None) is None:
                wrong.append(f"lease {event['lease']} ended, but never began")
    wrong += [f"lease {lease} never ended" for lease in held]
    return wrong, began, ended
