"""Which budget counts: what was typed, what the recipe says, what a device leaves room for."""

from edgeprune.budget import Budget
from edgeprune.devices import DeviceProfile, load_device
from edgeprune.errors import InputError
from edgeprune.recipe import Recipe


def choose_bounds(
    recipe: Recipe, *, typed: Budget | None, device: str | None, target: float | None
) -> tuple[Recipe, Budget | None]:
    """The budget that a command works with, and the recipe in the blocks that the device wants.

    What is typed wins over the recipe's section. Where there is a budget, the device's room tightens it and the level
    carries the device's name; a device that is typed alone, without a target, is a budget by itself. Then channels are
    kept in blocks of the device's alignment, where it has one; levels of a target stay the recipe's.

    Args:
        recipe: its ``budget`` and ``export.device``.
        typed: bounds from the command line; without any (``none``) no budget counts.
        device: as typed, already in ``recipe.export.device``; None where none was.
        target: channel sparsity asked for.

    Raises:
        InputError: no such device, or one that is the whole budget and has no figures.
    """
    budget = typed or recipe.budget.bounds
    if budget is None and (device is None or target is not None):
        return recipe, None
    if budget is not None and not budget.bounds:
        return recipe, None
    if recipe.export.device is None:
        return recipe, budget
    profile = load_device(recipe.export.device)
    room = measure_room(profile)
    if budget is None and not room.bounds:
        raise InputError(
            f"The device {profile.id} publishes neither RAM nor flash, so it sets no bound.",
            f'BUDGET="flash=300KB ram=64KB" DEVICE={profile.id}',
        )
    if profile.alignment is not None and target is None:
        section = recipe.prune.model_copy(update={"align": profile.alignment})
        recipe = recipe.model_copy(update={"prune": section})
    return recipe, room if budget is None else budget.tightened(room)


def measure_room(profile: DeviceProfile) -> Budget:
    """What a device has for a model: RAM less its reserve for the arena, flash less its kernels for the file."""
    return Budget(
        flash_bytes=_less(profile.flash_bytes, profile.kernel_bytes),
        arena_bytes=_less(profile.ram_bytes, profile.reserve_bytes),
        device=profile.id,
    )


def _less(there: int | None, taken: int) -> int | None:
    return None if there is None else max(there - taken, 1)
