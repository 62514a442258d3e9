"""The model's files against its preset, and the LoRA that training is to go on from: headers only."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence

from mochi_api.runfile import RunFile
from mochi_api.spec import LoraSpec
from mochi_trainer import lora, presets, weights
from mochi_trainer.errors import AccessDeniedError, InvalidInputError, MissingObjectError
from mochi_trainer.exports.run_exports import export_room
from mochi_trainer.jobs.checks.findings import Findings
from mochi_trainer.jobs.checks.places import Places
from mochi_trainer.jobs.composing import lora_params
from mochi_trainer.presets import Preset
from mochi_trainer.storage import Store
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.weights import PARTS, Part, WeightsError
from mochi_trainer.weights.addresses import store_of
from mochi_trainer.weights.lora_files import lora_key, stored_config
from mochi_trainer.weights.stored import header_of, required

GIB = 1 << 30
IMAGE = "the weights in the image"


def check_model(places: Places, findings: Findings) -> None:
    """Look at every part that one of the stages needs, and at the disk that they are copied to."""
    preset = presets.preset_named(places.run.model.preset)
    address = places.run.locations.model
    where = address or IMAGE
    if not places.reachable(where):
        return
    store: Store | None = None
    with places.asking(where, findings, "the model"):
        store = _store(places, address, preset)
    if store is None:
        return
    sizes = _check_parts(places, store, where, preset, findings)
    if len(sizes) == len(PARTS):
        findings.checked.append(f"{where}: {', '.join(PARTS)} fit {preset.name}")
        with places.asking(where, findings, "room for the model"):
            _check_room(places.run, store, sizes, findings)


def _store(places: Places, address: str | None, preset: Preset) -> Store:
    if address is not None and address.startswith("s3://"):
        return places.store(address)
    source = preset.packaged if address is None else weights.open_source(address, places.run.s3)
    if source is None:
        raise InvalidInputError(
            f"model.source is required: preset {preset.name} brings no weights",
            action="set model.source and apply again under a new name",
        )
    return store_of(source)


def _check_parts(
    places: Places, store: Store, where: str, preset: Preset, findings: Findings
) -> dict[Part, int]:
    """Bytes of the parts that fit; a refusal holds for all of them."""
    sizes: dict[Part, int] = {}
    absent: list[tuple[Part, MissingObjectError]] = []
    for part in PARTS:
        before = len(findings.problems)
        with places.asking(where, findings, part):
            _check_part(store, part, preset, sizes, absent)
        refused = any(isinstance(problem, AccessDeniedError) for problem in findings.problems[before:])
        if refused or not places.reachable(where):
            break
    _report_absent(absent, findings)
    return sizes


def _check_part(
    store: Store,
    part: Part,
    preset: Preset,
    sizes: dict[Part, int],
    absent: list[tuple[Part, MissingObjectError]],
) -> None:
    try:
        sizes[part] = weights.check_headers(store, part, preset)
    except MissingObjectError as error:
        absent.append((part, error))
    except WeightsError as error:
        raise InvalidInputError(
            f"the model's weights cannot be used: {error}",
            action=f"get the files of {preset.name} again, or correct model.source or model.preset, "
            "and apply again under a new name",
        ) from error


def _report_absent(absent: Sequence[tuple[Part, MissingObjectError]], findings: Findings) -> None:
    """One problem for all parts that are not there: they have one cause as a rule."""
    if absent:
        (_, first), *others = absent
        more = f"; nor are {', '.join(part for part, _ in others)} there" if others else ""
        findings.problems.append(
            MissingObjectError(
                f"{first}{more}",
                action="upload the files of the model there, or correct model.source and apply again under a new name",
            )
        )


def _check_room(run: RunFile, store: Store, sizes: dict[Part, int], findings: Findings) -> None:
    """Compare what later pods have to put on their disks with this one's: they may run elsewhere, so only warn."""
    remote = not isinstance(store, LocalStore)
    needs = {
        "captions (a copy of t5)": sizes["t5"] if remote else 0,
        "training (its export)": export_room(run, store if run.locations.model else None),
    }
    findings.warnings += room_warnings(needs, shutil.disk_usage(tempfile.gettempdir()).free)


def room_warnings(needs: Mapping[str, int], free: int) -> list[str]:
    """A line for each of `needs` (bytes, by what needs them) that is more than is free here."""
    return [
        f"{what} will need {need / GIB:.3g} GiB of local disk, this pod has {free / GIB:.3g} GiB free: "
        "see that workers.resources.ephemeralStorage is enough"
        for what, need in needs.items()
        if need > free
    ]


def check_adapter(places: Places, findings: Findings) -> None:
    """Whether training can go on from `training.lora.startFrom`."""
    run = places.run
    address = (run.training.lora or LoraSpec()).start_from
    if run.mode != "lora" or not address or not places.reachable(address):
        return
    with places.asking(address, findings, "startFrom"):
        try:
            found = _adapter(places, address)
        except (ValueError, WeightsError) as error:
            raise InvalidInputError(
                f"training.lora.startFrom {address} cannot be used: {error}",
                action="correct training.lora (startFrom, rank, targets) and apply again under a new name",
            ) from error
        except MissingObjectError as error:
            raise MissingObjectError(
                f"training.lora.startFrom: {error}",
                action="upload the LoRA there, or correct training.lora.startFrom and apply again under a new name",
            ) from error
        findings.checked.append(f"{address} fits: rank {found.rank} on {', '.join(found.targets)}")


def _adapter(places: Places, address: str) -> lora.LoraParams:
    folder, _, name = address.rpartition("/")
    store = places.store(folder)
    key = lora_key(store, name)
    header = header_of(required(store, key))
    beside = stored_config(store, key, header.tensors)
    dit = weights.part_shapes("dit", presets.preset_named(places.run.model.preset))
    return lora.check_header_continues(header.shapes, header.metadata, lora_params(places.run), dit, beside)
