"""Devices, as the real package names and numbers them."""

import os
import time

#: Those of the real package, by the numbers of DLPack.
NAMES = {1: "cpu", 2: "cuda", 4: "opencl", 7: "vulkan", 8: "metal", 10: "rocm"}
ALIASES = {"llvm": "cpu", "cl": "opencl", "nvptx": "cuda"}


class Device:
    _DEVICE_TYPE_TO_NAME = NAMES

    def __init__(self, kind, index):
        self.kind, self.index = kind, index

    def dlpack_device_type(self):
        return next(number for number, name in NAMES.items() if name == self.kind)

    @property
    def exist(self):
        # Read anew: a process that has been forked may have another environment.
        words = os.environ.get("TVM_STANDIN", "").split()
        orders = dict(word.partition("=")[::2] for word in words)
        if "asked" in orders:
            with open(orders["asked"], "a") as file:
                file.write(f"{self.kind}:{self.index} {os.getpid()}\n")
        if orders.get("crash") == self.kind:
            os._exit(139)
        while "gate" in orders and not os.path.exists(orders["gate"]):
            time.sleep(0.005)
        if "there" in orders:  # what may change without notice
            with open(orders["there"]) as file:
                orders = dict(word.partition("=")[::2] for word in file.read().split())
        there = {kind: int(orders[kind]) for kind in orders if kind in NAMES.values()}
        return self.index < (there or {"cpu": 1}).get(self.kind, 0)

    def __repr__(self):
        return f"{self.kind}:{self.index}"


def device(device_type, index=None):
    kind, _, number = device_type.partition(":")
    kind = ALIASES.get(kind, kind)
    if kind not in NAMES.values():
        raise ValueError(f"Unsupported device type {device_type!r}")
    return Device(kind, int(number or 0) if index is None else index)
