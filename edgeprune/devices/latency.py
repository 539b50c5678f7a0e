"""Latency by proportion to a public measurement of the same core. An estimate, never a measurement."""

from edgeprune.devices.profile import DeviceProfile


def estimate_latency_ms(profile: DeviceProfile, macs: int) -> float | None:
    """Milliseconds of one inference, in proportion to MACs and to the clock; None without a public measurement.

    Real networks stray from it by a factor of two either way: depthwise convolutions take more cycles a MAC than
    others, and memory that is not next to the core takes its own time.

    Args:
        profile: of the device.
        macs: of one image.

    >>> from edgeprune.devices.profile import load_device
    >>> board = load_device("stm32f746")
    >>> estimate_latency_ms(board, board.latency.macs) == board.latency.ms
    True
    """
    known = profile.latency
    if known is None:
        return None
    # Without a clock of its own, the board counts as clocked like the measured one.
    slower = known.clock_hz / (profile.clock_hz or known.clock_hz)
    return known.ms * macs / known.macs * slower


def explain_latency(profile: DeviceProfile) -> str:
    """What an estimate for this device comes from, one sentence; empty without a public measurement."""
    known = profile.latency
    if known is None:
        return ""
    clock = profile.clock_hz or known.clock_hz
    scaled = "MACs" if clock == known.clock_hz else f"MACs and to the clock ({_mhz(clock)} here)"
    return (
        f"in proportion to {scaled} from {known.ms:g} ms for {known.benchmark} ({known.macs:,} MACs, {known.counter}) "
        f"at {_mhz(known.clock_hz)} with {known.runtime}: {known.source.rstrip('.')}."
    )


def _mhz(hertz: int) -> str:
    return f"{hertz / 1e6:g} MHz"
