"""Classes of a study: methods that learn something for each, and a prompt for each (PRIVACY 23). No torch here."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from undertone.core.captions import caption_columns
from undertone.errors import PlanChanged, StudyError
from undertone.methods.classes import ClassShown
from undertone.methods.protocol import Method, Said, UnitRecords
from undertone.models.class_names import labels_for
from undertone.models.pinned import PinnedBase


@runtime_checkable
class ClassedMethod(Method, Protocol):
    """A method that can learn something for each class; `per_class` of its options says whether it does."""

    @property
    def per_class(self) -> bool:
        """Whether it does."""

    @property
    def classes(self) -> Sequence[str]:
        """The study's list; empty until `of_classes` has said it, and where nothing is learned by class."""

    def of_classes(self, classes: Sequence[str]) -> "ClassedMethod":
        """This method for the study's list.

        Raises:
            StudyError: it cannot do so many, or something of its options does not go with classes.
        """

    def scaled(self, base: PinnedBase, median: Callable[[Method], float]) -> tuple[Method, Said]:
        """This method with the figures that rows by class need of public drawings, and what to say of them.

        Args:
            base: the base's files.
            median: of the lengths of a method's rows of public drawings.
        """


class _Classed(Protocol):
    """A method's name, and the classes that it learns something for."""

    name: ClassVar[str]

    @property
    def per_class(self) -> bool: ...

    @property
    def classes(self) -> Sequence[str]: ...


class NamesClasses:
    """What methods share whose options are `per_class` and `class_names`, and whose rows hold no shares of classes."""

    options: Any

    @property
    def per_class(self) -> bool:
        """Whether something is learned for each class."""
        return bool(self.options.per_class)

    @property
    def classes(self) -> Sequence[str]:
        """The study's list, in its order."""
        names: list[str] = self.options.class_names
        return names

    def of_classes(self, classes: Sequence[str]) -> Self:
        """This method for the study's list."""
        made: Callable[[Any], Self] = type(self)
        return made(self.options.model_copy(update={"class_names": list(classes)}))

    def scaled(self, base: PinnedBase, median: Callable[[Method], float]) -> tuple[Self, Said]:
        """As it is: nothing is to be measured."""
        del base, median
        return self, ()


def with_classes(method: Method, classes: Sequence[str]) -> Method:
    """The method of a study with these classes; one that learns nothing by class stays as it is.

    Raises:
        StudyError: it learns by class and the study has none, or names classes among the method's options.
    """
    if not isinstance(method, ClassedMethod):
        return method
    if method.classes:
        raise StudyError("method.class_names: leave it out; the list is data.classes, which plan fills in here")
    if not method.per_class:
        return method
    if not classes:
        raise StudyError(
            "method.per_class = true needs data.class_column and data.classes, a list that you type: it is published"
        )
    return method.of_classes(classes)


def scaled(method: Method, base: PinnedBase, median: Callable[[Method], float]) -> tuple[Method, Said]:
    """As `ClassedMethod.scaled`; another method as it is, with nothing said."""
    return method.scaled(base, median) if isinstance(method, ClassedMethod) and method.per_class else (method, ())


def check_classes(method: Method, classes: Sequence[str]) -> None:
    """A plan's method learns the plan's own classes: its rows and its words are of no other list.

    Raises:
        PlanChanged: of another.
    """
    if not isinstance(method, ClassedMethod):
        return
    if list(method.classes) != (list(classes) if method.per_class else []):
        raise PlanChanged(f"{method.name} has other classes in its options than the plan's data.classes")
    if method.per_class and not classes:
        raise PlanChanged(f"{method.name} learns something for each class, and the plan has none")


def check_told(method: _Classed, base: PinnedBase, caption: str) -> None:
    """The base is told what the study's captions are: of a class base a class's name and nothing else.

    Raises:
        StudyError: `per_class` is not what the base is told, or the caption is more than the class column.
        ModelError: the base has fewer classes than the study.
    """
    told = {"class": "a class", "none": "nothing"}.get(base.kind, "words")
    if (base.kind == "class") != method.per_class:
        wanted = str(base.kind == "class").lower()
        raise StudyError(f"{base.reference} is told {told}: with {method.name} say method.per_class = {wanted}")
    if not method.per_class:
        return
    columns = caption_columns(caption)
    if len(columns) != 1 or caption != f"{{{columns[0]}}}":
        raise StudyError(
            f'data.caption = "{caption}": {base.reference} is told a class and no words; write the class column alone, '
            'as in caption = "{digit}" with class_column = "digit"'
        )
    labels_for(method.classes, base.classes)


def told_classes(unit: UnitRecords, classes: Sequence[str]) -> UnitRecords:
    """The unit with its classes' names, as the plan spells them, for captions; one without classes as it is."""
    if unit.classes is None:
        return unit
    return replace(unit, captions=tuple(classes[place] for place in unit.classes))


def prompts_by_class(
    method: Method, caption: str, column: str | None, classes: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """Class -> the prompts for samples before and after adaptation; "" -> those of a study without classes.

    Without classes, or where neither caption nor method tells one from another, there is one pair.
    """
    plain = method.sample_prompts(caption)
    if column is None:
        return {"": plain}
    found = {
        name: method.sample_prompts(caption, ClassShown(place, name, column)) for place, name in enumerate(classes)
    }
    return found if len(set(found.values())) > 1 else {"": plain}
