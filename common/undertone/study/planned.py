"""The method of a plan, once it adapts here exactly what the plan says it adapts, in the stages that the plan says."""

from collections.abc import Sequence

from undertone.errors import PlanChanged, StudyError
from undertone.methods.classed import check_classes, prompts_by_class
from undertone.methods.protocol import Method, MethodStage, ShardedMethod, check_needs, sent_by, stages_of
from undertone.methods.registry import method_for
from undertone.models.pinned import PinnedBase
from undertone.study.plan import Plan


def planned_method(plan: Plan, base: PinnedBase) -> Method:
    """The plan's method with the plan's options.

    Raises:
        ModelError: the base lacks a part that the method needs.
        PlanChanged: the layout on this base is another, the rounds are other stages, or it learns other classes.
    """
    method = method_for(plan.method.name, plan.method.options)
    check_classes(method, plan.data.classes)
    check_shards(method, plan)
    check_needs(method, base)
    found = (method.layout(base).digest, method.dimension(base))
    if found != (plan.method.layout_digest, plan.method.dimension):
        raise PlanChanged(
            f"{plan.method.name} adapts {found[1]} values here, layout {found[0][:8]}; the plan says "
            f"{plan.method.dimension}, layout {plan.method.layout_digest[:8]}"
        )
    check_stages(plan, stages_of(method, base), sent_by(method, base))
    return method


def check_shards(method: Method, plan: Plan) -> None:
    """The plan counts as many shards as the method makes, or none: Delta follows from that (PRIVACY 15).

    So does its ancestor's, whose charges its claim may cover and which every reader is told.

    Raises:
        PlanChanged: other numbers, or an ancestor of a method that this program does not have.
    """
    ancestor = plan.ancestor
    if ancestor is not None:
        try:
            check_shards(method_for(ancestor.method.name, ancestor.method.options), ancestor)
        except (PlanChanged, StudyError) as error:
            raise PlanChanged(f"the plan of {ancestor.study}, from whose release it starts: {error}") from None
    made = method.shards if isinstance(method, ShardedMethod) else None
    if made != plan.method.shards:
        said = [f"{shards or 'no'} shards at a site" for shards in (made, plan.method.shards)]
        raise PlanChanged(f"{plan.method.name} makes {said[0]}, the plan counts {said[1]}: its Delta is another")


def check_stages(plan: Plan, stages: Sequence[MethodStage], sent: int) -> None:
    """The plan's stages are what the method is asked for.

    Raises:
        PlanChanged: others, with other rows, or another part of the state is sent.
    """
    *earlier, last = plan.stages
    asked = [(stage.name, len(stage.rounds), stage.dimension) for stage in earlier]
    made = [(stage.name, stage.rounds, stage.row) for stage in stages[:-1]]
    if plan.rehearsal:  # one round of each
        made = [(name, 1, row) for name, _, row in made]
    held = plan.rehearsal or stages[-1].rounds in (None, len(last.rounds))
    if not held or (asked, last.dimension, plan.state_size) != (made, stages[-1].row, sent):
        raise PlanChanged(
            f"{plan.method.name} has the stages {', '.join(stage.name or 'rounds' for stage in stages)} here, with "
            f"rows of {', '.join(str(stage.row) for stage in stages)} values; the plan says others"
        )


def class_prompts(plan: Plan, method: Method | None = None) -> dict[str, tuple[str, str]]:
    """Class -> the prompts for images before and after adaptation; "" -> those of a plan without classes.

    The base is not needed. Also "" alone where neither the caption nor the method tells one class from another.
    """
    learned = method_for(plan.method.name, plan.method.options) if method is None else method
    return prompts_by_class(learned, plan.data.caption, plan.data.class_column, plan.data.classes)


def planned_stage(plan: Plan, base: PinnedBase, round_: int) -> MethodStage:
    """What the plan's method is asked for in a round.

    Raises:
        ModelError, PlanChanged: as `planned_method`.
        MechanismViolation: the plan has no such round.
    """
    place = plan.stages.index(plan.stage_of(round_))
    return stages_of(planned_method(plan, base), base)[place]
