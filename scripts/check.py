"""`calico check DATA...`: read everything once and say what is wrong, before hours of training.

Every row, picture and sound is decoded, by all cores. For each source: what it was taken for, how many documents or episodes it
has, targets per row, which ones are broken, duplicates, what does not fit a row of the default context, classes and lengths.

    calico check captions.jsonl                       # 100,000 pictures: as long as decoding them takes
    calico check data/CartPole-v1 chats.jsonl pictures.zip
    calico check captions.jsonl --json                # all broken ones, not the first few

The exit code is 1 where something is broken or has nothing to learn, 2 where there are no data.
"""

from typing import TYPE_CHECKING

from calico.scripts.common import console

if TYPE_CHECKING:
    from calico.scripts.evaluation.checking import Checked

WRONG = 1          # exit code
NAMED = 10         # broken ones that are named


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, read, report."""
    parser = console.make_parser("check", __doc__)
    parser.add_argument("data", nargs="+", metavar="DATA", help="files or folders, as `calico train` and the others read them")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read (default: as many as there are cores)")
    parser.add_argument("--context", type=int, default=512, metavar="TOKENS", help="of a row (default 512, as in a config)")
    parser.add_argument("--images", metavar="PLACE", help="folder or zip of the pictures, where they lie elsewhere")
    parser.add_argument("--label", default="label", metavar="FIELD", help="field of a manifest's records that has the class")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.workers is not None and arguments.workers < 1 or arguments.context < 1:
        parser.error(f"--workers {arguments.workers} --context {arguments.context}: give at least 1")

    import os  # late, with what takes a second to load

    from calico.scripts.evaluation.checking import check

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    reports = [check(path, context=arguments.context, workers=arguments.workers or cores, images=arguments.images,
                     label=arguments.label) for path in arguments.data]
    if arguments.json:
        console.print_json([{**vars(report), "wrong": report.wrong} for report in reports])
    else:
        for report in reports:
            console.say(*lines_of(report, arguments.context))
    return WRONG if any(report.wrong for report in reports) else 0


def lines_of(report: "Checked", context: int) -> list[str]:
    """A report for people."""
    lines = [f"{report.path}: {report.format or 'data'}, {report.count:,} {report.items}"]
    lines += [f"  wrong: {fault}" for fault in report.faults]
    if report.count:
        lines.append(f"  broken: {len(report.broken):,}" + (f", the first {NAMED}:" if len(report.broken) > NAMED else ""))
        lines += [f"    {why}" for why in report.broken[:NAMED]]
        lines.append(f"  duplicates: {report.duplicates:,}")
    if report.targets_per_row is not None:
        lines.append(f"  targets: {report.targets_per_row:.0f} in a row of {context} tokens; {report.without_target:,} "
                     f"{report.items} have none")
    if report.truncated is not None:
        lines.append(f"  longer than a row: {report.truncated:.1%}")
    if report.classes:
        lines.append("  classes: " + ", ".join(f"{name} {times:,}" for name, times in report.classes.items()))
    if report.lengths:
        shortest, median, longest = report.lengths
        lines.append(f"  lengths: {shortest:,} to {longest:,}, median {median:,.6g} ({report.unit})")
    lines += [f"  {times:,} {remark}" for remark, times in report.remarks.items()]
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
