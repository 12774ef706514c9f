"""A stand-in for the module of ``nvidia-ml-py``: it shows the GPUs that a file describes.

``STANDIN_GPUS`` names the file: JSON, a list with ``total``, ``free``, ``uuid``, ``processes``
(pid and bytes, None where the driver does not tell) and ``mig`` (a list of the same) for each GPU.
Without the variable there is no driver, as on a machine without a GPU.
"""

import json
import os


class NVMLError(Exception):
    pass


class Memory:
    def __init__(self, device):
        self.total = device.get("total", 0)
        self.free = device.get("free", self.total)
        self.used = self.total - self.free


class Process:
    def __init__(self, pid, used):
        self.pid = pid
        self.usedGpuMemory = used


OPEN = 0


def gpus():
    if not OPEN:
        raise NVMLError("Uninitialized")
    with open(os.environ["STANDIN_GPUS"], encoding="utf-8") as file:
        return json.load(file)


def nvmlInit():
    global OPEN
    if not os.environ.get("STANDIN_GPUS"):
        raise NVMLError("Driver Not Loaded")
    OPEN += 1


def nvmlShutdown():
    global OPEN
    OPEN -= 1


def nvmlDeviceGetCount():
    return len(gpus())


def nvmlDeviceGetHandleByIndex(index):
    if index >= len(gpus()):
        raise NVMLError("Invalid Argument")
    return gpus()[index]


def nvmlDeviceGetHandleByUUID(uuid):
    for device in gpus():
        for one in (device, *device.get("mig", ())):
            if one["uuid"] == uuid:
                return one
    raise NVMLError("Not Found")


def nvmlDeviceGetUUID(handle):
    return handle["uuid"]


def nvmlDeviceGetMemoryInfo(handle):
    return Memory(handle)


def nvmlDeviceGetComputeRunningProcesses(handle):
    return [Process(pid, used) for pid, used in handle.get("processes", ())]


def nvmlDeviceGetMigMode(handle):
    if "mig" not in handle:
        raise NVMLError("Not Supported")
    return [1, 1]


def nvmlDeviceGetMaxMigDeviceCount(handle):
    return 7


def nvmlDeviceGetMigDeviceHandleByIndex(handle, index):
    if index >= len(handle["mig"]):
        raise NVMLError("Not Found")
    return handle["mig"][index]
