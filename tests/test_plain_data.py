"""In what two pieces of plain data differ."""

from common.overrides import override

from dsl_jax.config import to_dict
from dsl_jax.plain_data import differences
from dsl_jax.presets import get_preset


def test_differences_name_the_fields():
    one = to_dict(get_preset("smoke", "mnist"))
    other = to_dict(override(get_preset("smoke", "mnist"), {"search.layers[1].generations": "77"}))
    assert differences(one, one) == []
    (line,) = differences(one, other)
    assert line.startswith("search.layers[1].generations: 77 there")
    fewer = one | {"variants": ["sgd"]}
    (line,) = differences(fewer, one)
    assert line.startswith("variants: ['all_layers', 'skip_block_0', 'sgd'] there, ['sgd'] here")
