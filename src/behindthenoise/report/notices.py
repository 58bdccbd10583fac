"""What a reader must know before using the intervals: sentences from the tables."""

import math
from collections.abc import Iterator

from behindthenoise.report.cells import number, percent
from behindthenoise.report.content import Content, Row, Table

AT_THE_TOP = 5  # warnings that are read before the first image, and items in one of them; more can be unfolded
FAR_SHORT = 0.05  # of the nominal coverage, from which on values are named that nothing is promised of by themselves
FEW = 0.01  # of the test voxels: groups that hold fewer are not named where nothing tells what chance does
BY_CHANCE = 0.025  # of the groups, if all were covered as nominal, have their 95 % interval wholly below


def nominal(content: Content) -> str:
    """Coverage that is promised."""
    return f"{100 * content.coverage:g} %"


def notices(content: Content) -> list[str]:
    """What a reader must know before using the intervals, the gravest first."""
    promised, found = nominal(content), []
    if rows := short(content.channels, content.coverage):
        told = _told([f"{row['channel']} ({percent(row['coverage'])})" for row in rows])
        found.append(
            f"On test data coverage falls short of {promised}: {told}. Chance alone hardly explains that; see the assumptions of "
            "the certificate."
        )
    rows, every = short(content.token_coverage, content.coverage), len(content.token_coverage)
    if rows and "token" in content.certificate["grouped_by"]:
        told = _told([f"{row['channel']} in token {row['token']} ({percent(row['coverage'])})" for row in rows])
        found.append(
            f"On test data coverage of single tokens falls short of {promised}: {told}. That is {len(rows)} of {every}; were "
            f"all of them covered as nominal, chance would still let about {BY_CHANCE * every:.1g} look like that."
        )
    # of a channel that is short as a whole, no scan is other than the rest
    whole = {row["channel"] for row in short(content.channels, content.coverage)}
    if rows := [row for row in short(content.scans, content.coverage) if row["channel"] not in whole]:
        told = _told([f"{row['channel']} in scan {row['scan']} ({percent(row['coverage'])})" for row in rows])
        found.append(
            f"On test data coverage of single fast scans (the first that is used is 0) falls short of {promised}: {told}. "
            "Intervals hold for scans like all of them together; look at what is other with these. "
            f"That is {len(rows)} of {len(content.scans)}; chance would let about {BY_CHANCE * len(content.scans):.1g} "
            "look like that."
        )
    if rows := short(content.intensity, content.coverage - FAR_SHORT):
        unit = content.field.value_unit
        told = _told([f"{_tenth(row, unit)} ({percent(row['coverage'])})" for row in rows])
        cure = "" if "intensity" in content.certificate["grouped_by"] else "; calibration.groups: [intensity] would promise it"
        found.append(
            f"On test data coverage, with all of its 95 % interval, falls short of {promised} by more than {100 * FAR_SHORT:g} "
            f"points where the median lies in these tenths of its values: {told}{cure}."
        )
    return [*found, *_unjudged(content), *_of_pairs(content), *_of_volumes(content), *content.certificate["warnings"]]


def _unjudged(content: Content) -> Iterator[str]:
    """What is covered far less where the test data are one block or image, so that it has no 95 % interval."""
    unit, tokens = content.field.value_unit, content.token_coverage if "token" in content.certificate["grouped_by"] else []
    parts = [(_tenth(row, unit), row) for row in content.intensity]
    parts += [(f"{row['channel']} in token {row['token']}", row) for row in tokens]
    voxels = max((int(row["pixels"]) for row in content.channels), default=0)
    far = [
        (float(row["coverage"]), name)
        for name, row in parts
        if math.isnan(float(row["coverage_high"]))
        and float(row["coverage"]) < content.coverage - FAR_SHORT
        and int(row["pixels"]) >= FEW * voxels
    ]
    if far:
        told = _told([f"{name} ({percent(coverage)})" for coverage, name in sorted(far)])
        yield (
            f"On test data coverage is more than {100 * FAR_SHORT:g} points below {nominal(content)} of {told}. These voxels "
            "are worth one block or image, so that nothing tells how much of that is chance; more test data would."
        )


def _tenth(row: Row, unit: str) -> str:
    """Name of a tenth of the predicted medians."""
    return f"{row['channel']} from {number(row['from'])} to {number(row['to'])} {unit}"


def _of_pairs(content: Content) -> Iterator[str]:
    """What was noticed of the pairs."""
    if content.displaced:
        yield (
            f"Scans of the training pairs are displaced: {_told(list(content.displaced))}. Networks learn "
            "that as if it belonged to the material, and where it differs between scans or images, it blurs. Align the scans and "
            "run again."
        )
    if rows := [row for row in content.channels if float(row["correlation"]) < float(row["correlation_noisy"])]:
        told = _told([f"{row['channel']} ({number(row['correlation_noisy'])} → {number(row['correlation'])})" for row in rows])
        yield (
            f"On test data the slow scan correlates less with the denoised image than with the fast scan itself: {told}. "
            "Train longer, and see whether both scans show the same field."
        )
    # where the slow scan is constant, the PSNR is none either
    constant = [
        row for row in content.channels if math.isnan(float(row["correlation_noisy"])) and not math.isnan(float(row["psnr_noisy"]))
    ]
    if told := _told([str(row["channel"]) for row in constant]):
        yield (
            f"The fast scans of {told} are constant on test data: what is shown of such a channel comes from the other channels "
            "alone, if from anything."
        )
    if content.field.unlike:
        yield (
            f"Files of the pairs tell other sizes of voxels than they are taken to have: {content.field.unlike}. Areas, volumes "
            "and positions follow the first."
        )


def _of_volumes(content: Content) -> Iterator[str]:
    """What was noticed of lists of regions, and of volumes."""
    for one in content.regions:
        level, share = one.facts["asked"]["level"], one.facts.get("test", {}).get("false_share")
        if share is not None and share > level:
            yield (
                f"Regions {one.name} of volume {one.volume}: at most {percent(level)} of their area is promised to be false, in "
                f"expectation; of the test voxels that are chosen in the same way, {percent(share)} are."
            )
    if told := _told([f"volume {plane.name}" for plane in content.volumes if plane.unnamed]):
        yield (
            "Channels of which a file does not name each are taken for "
            f"{', '.join(content.field.channel_names)}, in this order: {told}. "
            "In another order nothing that is shown of them holds; channel_names beside the path says which they are."
        )
    if told := _told([f"those of volume {plane.name} are {plane.unlike}" for plane in content.volumes if plane.unlike]):
        yield (
            f"Voxels seem to be of another size: {told}. Networks know what they have learned in voxels; what has another size "
            "in voxels is new to them, and no promise is about it."
        )
    # parts of one field often differ, and what its test voxels show stands above
    checks = [check for check in content.checks if not check["same_field"]]
    flags = {check["volume"]: [finding["flagged"] for finding in check["findings"]] for check in checks}
    if told := _told([f"volume {name} ({sum(flag)} of {len(flag)} checks)" for name, flag in flags.items() if any(flag)]):
        yield (f"Unlike the calibration data: {told}. What was found stands beside the images; the promise need not hold there.")


def doubt(content: Content) -> str:
    """What to know of tokens whose number other fits do not agree on; empty where they do."""
    count = len(content.tokens)
    rows = {int(row["tokens"]): row for row in content.stability}
    if count not in rows or rows[count]["agreed_on"] == "yes":
        return ""
    seeds, halves = (float(rows[count][f"agreement_of_{name}"]) for name in ("seeds", "halves"))
    others = [str(number) for number, row in rows.items() if row["agreed_on"] == "yes"]
    hint = f"Agreed on: {', '.join(others)}." if others else "No other number is agreed on either; more networks may help."
    return (
        f"Other fits do not agree on these {count} tokens (adjusted Rand index with other seeds {number(seeds, digits=2)}, "
        f"between halves of the ensemble {number(halves, digits=2)}, wanted 0.9): other networks may cut them in other ways. {hint}"
    )


def short(rows: Table, nominal: float) -> list[Row]:
    """Rows whose 95 % interval lies wholly below the nominal coverage, the worst first."""
    return sorted((row for row in rows if float(row["coverage_high"]) < nominal), key=lambda row: float(row["coverage"]))


def _told(items: list[str]) -> str:
    """Some items in one sentence, the first few by name."""
    more = len(items) - AT_THE_TOP
    return ", ".join(items[:AT_THE_TOP]) + (f" and {more} more" if more > 0 else "")
