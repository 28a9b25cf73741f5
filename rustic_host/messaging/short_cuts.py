"""A shorter way than pydantic's own to build a model that there are very many of, with the same result.

Only what is given is validated; pydantic looks at every field, and asks a factory for each empty list.
"""

from collections.abc import Callable, Collection
from typing import Annotated, Any, Final, NotRequired, TypeVar

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from typing_extensions import TypedDict

M = TypeVar("M", bound=BaseModel)

_typed_dict: Final[Any] = TypedDict

# Past the checks of assignments, and faster than object.__setattr__: these run for each message and reader.
_set_dict: Final = BaseModel.__dict__["__dict__"].__set__
_set_fields_set: Final = BaseModel.__dict__["__pydantic_fields_set__"].__set__
_set_extra: Final = BaseModel.__dict__["__pydantic_extra__"].__set__
_set_private: Final = BaseModel.__dict__["__pydantic_private__"].__set__
_new: Final[Callable[[type[Any]], Any]] = object.__new__


def fill(made: BaseModel, values: dict[str, Any], fields_set: set[str]) -> None:
    """Make a bare instance one with these values, all fields in their order; they are not validated."""
    _set_dict(made, values)
    _set_fields_set(made, fields_set)
    _set_extra(made, None)
    _set_private(made, None)


def made(model: type[M], values: dict[str, Any], fields_set: set[str]) -> M:
    """Return a new instance with these values, all fields in their order; they are not validated."""
    instance: M = _new(model)
    fill(instance, values, fields_set)
    return instance


def validator_of(model: type[BaseModel], leave_out: Collection[str]) -> Callable[..., dict[str, Any]]:
    """Return what validates fields, given in a dict, as ``model`` does; of defaults it knows nothing.

    Unknown fields are left out of what it returns. It raises pydantic.ValidationError, in words of its own.
    """
    fields = {name: _kind(field) for name, field in model.model_fields.items() if name not in leave_out}
    check: Callable[..., dict[str, Any]] = TypeAdapter(_typed_dict(model.__name__, fields)).validator.validate_python
    return check


def _kind(field: FieldInfo) -> Any:
    kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return kind if field.is_required() else NotRequired[kind]
