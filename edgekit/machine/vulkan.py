"""The Vulkan devices that this machine's loader finds, before anything is built for them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

from edgekit.machine import worker

_LIBRARIES = ("libvulkan.so.1", "libvulkan.1.dylib", "libMoltenVK.dylib", "vulkan-1.dll")
_LIMIT_S = 60.0
_NOTHING_LEFT = {"MESA_SHADER_CACHE_DISABLE": "true"}  # else Mesa makes a folder for kernels that nobody compiles
_CARD, _SOFTWARE = 2, 4  # VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU, VK_PHYSICAL_DEVICE_TYPE_CPU
_INSTANCE_INFO = 1  # VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO
_PROPERTIES_BYTES = 4096  # VkPhysicalDeviceProperties has 824, VkPhysicalDeviceMemoryProperties 520
_HEAPS, _HEAP_BYTES, _OWN = 264, 16, 1  # where the heaps begin, what each takes, VK_MEMORY_HEAP_DEVICE_LOCAL_BIT
_MOST_DEVICES = 64


@dataclass(frozen=True)
class VulkanDevice:
    """One device.

    Attributes:
        software: whether it is computed on the CPU, as Mesa's llvmpipe is.
        memory_bytes: of a card's own memory; 0 for a device that shares the machine's.
    """

    name: str
    software: bool
    memory_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.name} (Vulkan{', software' if self.software else ''})"


def vulkan_devices() -> tuple[VulkanDevice, ...]:
    """The devices, asked for in a process of its own; none where there is no loader, or a driver dies of it."""
    try:
        answers, _ = worker.run(found, limit_s=_LIMIT_S, environment=_NOTHING_LEFT)
    except OSError:
        return ()
    return tuple(VulkanDevice(*answer) for answer in answers)


def found(job: object) -> Iterator[tuple[str, bool, int]]:
    """Each device's name, whether it is software, and its own memory in bytes; for `edgekit.machine.worker`."""
    library = next(filter(None, map(_loaded, _LIBRARIES)), None)
    if library is None:
        return
    info = (ctypes.c_uint64 * 8)(_INSTANCE_INFO)  # VkInstanceCreateInfo: its type, then zeros
    instance = ctypes.c_void_p()
    if library.vkCreateInstance(info, None, ctypes.byref(instance)):
        return
    count = ctypes.c_uint32(_MOST_DEVICES)
    handles = (ctypes.c_void_p * _MOST_DEVICES)()
    library.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
    for handle in handles[: count.value]:
        # VkPhysicalDeviceProperties: five numbers, the type the fifth, then the name.
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        library.vkGetPhysicalDeviceProperties(ctypes.c_void_p(handle), properties)
        kind = ctypes.c_uint32.from_buffer(properties, 16).value
        name = properties.raw[20 : 20 + 256].split(b"\0")[0].decode("utf-8", "replace")
        yield name, kind == _SOFTWARE, _own_memory(library, handle) if kind == _CARD else 0


def _own_memory(library: ctypes.CDLL, handle: int | None) -> int:
    """Bytes of the largest heap that is the device's own; a second, small one is a window that the CPU sees."""
    properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
    library.vkGetPhysicalDeviceMemoryProperties(ctypes.c_void_p(handle), properties)
    count = ctypes.c_uint32.from_buffer(properties, _HEAPS - 4).value
    heaps = [_HEAPS + _HEAP_BYTES * number for number in range(min(count, 16))]
    own = [at for at in heaps if ctypes.c_uint32.from_buffer(properties, at + 8).value & _OWN]
    return max((ctypes.c_uint64.from_buffer(properties, at).value for at in own), default=0)


def _loaded(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None
