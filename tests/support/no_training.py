"""Trainings of a sweep's points that are recorded, and not done."""

from common import sweep_points


def record_trainings(monkeypatch, recorded):
    """Has `recorded(network, dataset, targets, config)` in the place of learning, and of SGD, whose
    targets are None."""

    def learn(key, network, dataset, targets, config, **options):
        return recorded(network, dataset, targets, config)

    def learn_sgd(key, network, dataset, config, **options):
        return recorded(network, dataset, None, config)

    monkeypatch.setattr(sweep_points, "learn", learn)
    monkeypatch.setattr(sweep_points, "learn_sgd", learn_sgd)
