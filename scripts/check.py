"""`calico check DATA|TASK...`: read everything once and say what is wrong, before hours of training.

Every row, picture and sound is decoded, by all cores. For each source: what it was taken for, how many documents or episodes it
has, targets per row, which ones are broken, duplicates, what does not fit a row of the default context, classes and lengths.

    calico check captions.jsonl                       # 100,000 pictures: as long as decoding them takes
    calico check data/CartPole-v1 chats.jsonl pictures.zip
    calico check captions.jsonl --json                # all broken ones, not the first few
    calico check my_module:MyEnv-v0 --policy my_module:expert        # an environment of your own: does it keep the contract?

A task is played by random actions and by its expert, in this process and another: seeds must decide its episodes, and all that
it shows must lie in its spaces.
The exit code is 1 where something is broken or has nothing to learn, 2 where there are no data.
"""

from typing import TYPE_CHECKING

from calico.scripts.common import console

if TYPE_CHECKING:
    from calico.envs.contract import Contract
    from calico.scripts.evaluation.checking import Checked

WRONG = 1          # exit code
NAMED = 10         # broken ones that are named


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, read, report."""
    parser = console.make_parser("check", __doc__)
    parser.add_argument("data", nargs="+", metavar="DATA|TASK",
                        help="files or folders, as `calico train` and the others read them, or tasks")
    parser.add_argument("--policy", metavar="P", help="of a task: who plays besides random actions (default: its expert)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read (default: as many as there are cores)")
    parser.add_argument("--context", type=int, default=512, metavar="TOKENS", help="of a row (default 512, as in a config)")
    parser.add_argument("--images", metavar="PLACE", help="folder or zip of the pictures, where they lie elsewhere")
    parser.add_argument("--label", default="label", metavar="FIELD", help="field of a manifest's records that has the class")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.workers is not None and arguments.workers < 1 or arguments.context < 1:
        parser.error(f"--workers {arguments.workers} --context {arguments.context}: give at least 1")

    import os  # late, with what takes a second to load

    from calico.scripts.common.shipped import is_own_task
    from calico.scripts.evaluation.checking import check

    tasks = [word for word in arguments.data if is_own_task(word)]
    if arguments.policy and not tasks:
        raise ValueError(f"--policy {arguments.policy} is for tasks, and {', '.join(arguments.data)} is none")
    contracts = check_tasks(tasks, arguments.policy)
    arguments.data = [word for word in arguments.data if word not in tasks]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    reports = [check(path, context=arguments.context, workers=arguments.workers or cores, images=arguments.images,
                     label=arguments.label) for path in arguments.data]
    if arguments.json:
        console.print_json([{**vars(report), "wrong": report.wrong} for report in reports]
                           + [{**vars(one), "wrong": bool(one.faults)} for one in contracts])
    else:
        for one in contracts:
            console.say(*lines_of_task(one))
        for report in reports:
            console.say(*lines_of(report, arguments.context))
    return WRONG if any(report.wrong for report in reports) or any(one.faults for one in contracts) else 0


def check_tasks(names: list[str], player: str | None) -> "list[Contract]":
    """Play each in every way that Calico does; see envs/contract.py."""
    if not names:
        return []
    from calico.envs.contract import check
    from calico.envs.registry import get_task

    return [check(get_task(name), player) for name in names]


def lines_of_task(found: "Contract") -> list[str]:
    """A report for people."""
    lines = [f"{found.task}: sees {found.observation}, does {found.action}" if found.observation else found.task]
    if found.tokens_per_step:
        least, most = found.tokens_per_step
        lines.append(f"  tokens per step: {least if least == most else f'{least} to {most}'}")
    lines += [f"  {name}: return {found.returns[name]:.4g}, {found.lengths[name]:.4g} steps" for name in found.returns]
    if found.steps_per_second:
        lines.append(f"  speed: {found.steps_per_second:,.0f} steps per second in one process")
    lines += [f"  remark: {remark}" for remark in found.remarks] + [f"  wrong: {fault}" for fault in found.faults]
    return lines if found.faults else [*lines, "  keeps the contract"]


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
