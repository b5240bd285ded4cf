from __future__ import annotations

import pytest
import torch
from jsonargparse import ArgumentParser

from hrseg.errors import ConfigError
from hrseg.losses import Criterion, CrossEntropyLoss, OhemCrossEntropyLoss, SmpLoss, SumLoss, WeightedOutputsLoss


def outputs_and_target() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (2, 12, 16), generator=generator, dtype=torch.uint8)
    target[:, :3] = 255
    outputs = {name: torch.randn(2, 4, 3, 4, generator=generator, requires_grad=True) for name in ("aux", "out")}
    return outputs, target


def test_weighted_sum_as_in_the_official_ocr_recipe() -> None:
    outputs, target = outputs_and_target()
    main, aux = OhemCrossEntropyLoss(0.5, 10), CrossEntropyLoss(divide_by="pixels")
    loss = WeightedOutputsLoss({"out": main, "aux": aux}, {"aux": 0.4})
    expected = main(outputs["out"], target) + 0.4 * aux(outputs["aux"], target)
    value = loss(outputs, target)
    torch.testing.assert_close(value, expected)
    assert value.ndim == 0
    terms = loss.terms(outputs, target)
    assert list(terms) == ["out", "aux"]
    torch.testing.assert_close(terms["aux"], 0.4 * aux(outputs["aux"], target))
    value.backward()
    assert all(logits.grad is not None and logits.grad.any() for logits in outputs.values())


def test_an_output_without_a_loss_is_left_out() -> None:
    outputs, target = outputs_and_target()
    value = WeightedOutputsLoss({"out": CrossEntropyLoss()})(outputs, target)
    torch.testing.assert_close(value, CrossEntropyLoss()(outputs["out"], target))


def test_an_output_that_the_network_does_not_return() -> None:
    outputs, target = outputs_and_target()
    loss = WeightedOutputsLoss({"out": CrossEntropyLoss(), "edge": CrossEntropyLoss()})
    with pytest.raises(ConfigError, match="output 'edge', but the network gives aux, out"):
        loss(outputs, target)


def test_outputs_in_training_only() -> None:
    """Multi-scale attention returns the logits of each scale in training only."""
    loss = WeightedOutputsLoss({"out": CrossEntropyLoss(), "out_0_5": CrossEntropyLoss()}).eval()
    logits, target = torch.randn(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)
    assert loss({"out": logits}, target) == CrossEntropyLoss()(logits, target)


@pytest.mark.parametrize(("names", "weights"), [([], {}), (["out"], {"aux": 0.4})])
def test_weights_without_a_loss(names: list[str], weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="give each output its loss"):
        WeightedOutputsLoss({name: CrossEntropyLoss() for name in names}, weights)


def test_bind_reaches_every_loss() -> None:
    inner = [CrossEntropyLoss(), CrossEntropyLoss([1.0, 2.0]), SmpLoss("dice")]
    loss = WeightedOutputsLoss({"out": SumLoss(inner[1:]), "aux": inner[0]})
    loss.bind(ignore_index=7, align_corners=True)
    assert [(child.ignore_index, child.align_corners) for child in inner] == [(7, True)] * 3
    assert loss.num_classes == 2


def test_sum_of_two_losses_on_one_output() -> None:
    outputs, target = outputs_and_target()
    loss = SumLoss([CrossEntropyLoss(), SmpLoss("dice")], [1.0, 0.5])
    expected = CrossEntropyLoss()(outputs["out"], target) + 0.5 * SmpLoss("dice")(outputs["out"], target)
    torch.testing.assert_close(loss(outputs["out"], target), expected)


def test_sum_binds_its_own_settings() -> None:
    inner = CrossEntropyLoss()
    SumLoss([inner], ignore_index=3, align_corners=True)
    assert (inner.ignore_index, inner.align_corners) == (3, True)


def test_sum_needs_one_weight_per_loss() -> None:
    with pytest.raises(ConfigError, match="1 losses and 2 weights"):
        SumLoss([CrossEntropyLoss()], [1.0, 2.0])
    with pytest.raises(ConfigError, match="0 losses"):
        SumLoss([])


def test_losses_can_be_written_in_yaml() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--loss", type=Criterion)
    config = parser.parse_string(
        """
        loss:
          class_path: hrseg.losses.WeightedOutputsLoss
          init_args:
            losses:
              out:
                class_path: hrseg.losses.SumLoss
                init_args:
                  losses:
                    - {class_path: hrseg.losses.OhemCrossEntropyLoss, init_args: {class_weights: [1, 2, 3, 4]}}
                    - {class_path: hrseg.losses.SmpLoss, init_args: {name: dice, options: {smooth: 1.0}}}
              aux: {class_path: hrseg.losses.CrossEntropyLoss}
            weights: {aux: 0.4}
        """
    )
    loss = parser.instantiate(config).loss
    outputs, target = outputs_and_target()
    assert loss.num_classes == 4
    assert loss.weights == {"out": 1.0, "aux": 0.4}
    assert loss(outputs, target) > 0
