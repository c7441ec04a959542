"""Synthetic result rows: correctness bits with seed effects, test-row effects and a gain."""

import itertools
import json

import numpy as np
import pandas as pd

PQ = tuple(itertools.product((0.2, 0.6, 1.0), (0.3, 0.7)))


def make_groups(num_classes=2, num_attributes=2, test_count=60, names=None):
    """Groups in order; minority where attribute != label, a little smaller than majority."""
    groups = []
    for label, attribute in itertools.product(range(num_classes), range(num_attributes)):
        minority = attribute != label % num_attributes
        name = names[label] if names else f"class {label}"
        groups.append(
            {
                "name": f"{name}, attribute {attribute}",
                "label": label,
                "minority": minority,
                "test_count": test_count - 7 * minority + label,
                "prior": 1.0 / num_classes,
                "train_share": (0.1 if minority else 0.9) / num_classes,
            }
        )
    return groups


def _codes(table, columns):
    return table.groupby(columns, dropna=False, sort=False).ngroup().to_numpy()


def _metrics(table, model, bits, groups):
    counts = np.array([group["test_count"] for group in groups])
    labels = np.array([group["label"] for group in groups])
    minority = np.array([group["minority"] for group in groups])
    share = np.array([group["train_share"] for group in groups])
    prior = {group["label"]: group["prior"] for group in groups}
    owner = np.repeat(np.arange(len(groups)), counts)
    correct = np.stack([bits[:, owner == g].sum(1) for g in range(len(groups))], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = correct / counts
    columns = {
        "accuracy": bits.mean(1),
        "group_balanced_accuracy": np.nanmean(accuracy, axis=1),
        "train_weighted_accuracy": (accuracy * share)[:, counts > 0].sum(1) / share.sum(),
        "worst_group_accuracy": np.nanmin(accuracy, axis=1),
        "correct": [row.tobytes() for row in np.packbits(bits, axis=1)],
        "iterations": 21,
        "gradient_norm": 1e-5,
        "objective": 0.4,
        "gap": 1e-6,
        "status": np.where(
            _codes(table, ["seed", f"{model}_codes"]) % 29, "converged", "max_iterations"
        ),
    }
    for part, mask in (("majority", ~minority), ("minority", minority)):
        total = 0.0
        for label, weight in prior.items():
            cell = mask & (labels == label)
            with np.errstate(invalid="ignore", divide="ignore"):
                total = total + weight * correct[:, cell].sum(1) / counts[cell].sum()
        columns[f"{part}_accuracy"] = total
    for g in range(len(groups)):
        columns[f"group_{g}_accuracy"] = accuracy[:, g]
    return {f"{model}_{name}": value for name, value in columns.items()}


def make_rows(
    pairs=("resnet18:clip_vit_b32",),
    eta_l=(0.1, 0.5),
    eta_u=(0.1, 0.3, 0.5),
    seeds=4,
    sizes=((200, 2000),),
    teacher_l2=(0.01, 0.1),
    student_l2=(0.1, 1.0),
    pq=PQ,
    groups=None,
    n_validation=100,
    ceiling=True,
    unlabelled=False,
    outside_teacher=False,
    stream=0,
    **fixed,
):
    """Rows as a sweep writes them; `fixed` sets whole columns (feature_scaling="none", ...)."""
    groups = make_groups() if groups is None else groups
    parts = []
    if outside_teacher:
        eta_l, teacher_l2 = eta_l[:1], teacher_l2[:1]
    if unlabelled:
        eta_u, ceiling = (np.nan,), False
    for index, pair in enumerate(pairs):
        rng = np.random.default_rng([stream, index])
        parts.append(
            _pair_rows(
                rng, pair, index, eta_l, eta_u, seeds, sizes, teacher_l2,
                student_l2, pq, groups, n_validation, ceiling, outside_teacher,
                fixed,
            )
        )  # fmt: skip
    rows = pd.concat(parts, ignore_index=True)
    return rows.sample(frac=1.0, random_state=3).reset_index(drop=True)


def _pair_rows(
    rng, pair, index, eta_l, eta_u, seeds, sizes, teacher_l2, student_l2, pq, groups, n_validation,
    ceiling, outside_teacher, fixed,
):  # fmt: skip
    axes = pd.DataFrame(
        [
            (seed, low, high, n, big, t, s)
            for seed, low, high, (n, big), t, s in itertools.product(
                range(seeds), eta_l, eta_u, sizes, teacher_l2, student_l2
            )
        ],
        columns=[
            "seed",
            "eta_l",
            "eta_u",
            "n_labelled",
            "n_unlabelled",
            "teacher_l2",
            "student_l2",
        ],
    )
    axes["vanilla_number"] = np.arange(len(axes))
    vanilla = axes.assign(method="vanilla", keep_fraction=np.nan, gce_q=np.nan)
    tables = [vanilla]
    for p, q in pq:
        tables.append(axes.assign(method="enhanced", keep_fraction=p, gce_q=q))
    table = pd.concat(tables, ignore_index=True)
    enhanced = (table["method"] == "enhanced").to_numpy()
    table["pair"] = pair
    table["teacher"], table["student"] = pair.split(":")
    table["teacher_fingerprint"], table["student_fingerprint"] = "7e1f" * 16, "5c0d" * 16
    table["schema_version"], table["package_version"] = 1, "0.1.0"
    table["n_validation"] = n_validation
    table["feature_scaling"], table["class_prior"], table["pseudolabels"] = "rms", "equal", "hard"
    table["retrain_l2"] = np.where(enhanced, table["student_l2"], np.nan)
    table["retrain_init"] = np.where(enhanced, "zero", None)
    table["retrain_targets"] = np.where(enhanced, "teacher", None)
    for name, value in fixed.items():
        table[name] = value
    suffix = json.dumps([pair, sorted(fixed.items())])
    number = table["vanilla_number"].astype(str)
    table["vanilla_key"] = number + suffix
    table["key"] = np.where(
        enhanced,
        number + suffix + table["keep_fraction"].astype(str) + table["gce_q"].astype(str),
        table["vanilla_key"],
    )
    table["groups"] = json.dumps(groups)
    if outside_teacher:
        table[["eta_l", "n_labelled", "teacher_l2"]] = np.nan

    counts = np.array([group["test_count"] for group in groups])
    minority = np.repeat([group["minority"] for group in groups], counts)
    labels = np.repeat([group["label"] for group in groups], counts)
    num_test = int(counts.sum())
    low, high = table["eta_l"].fillna(0.3).to_numpy(), table["eta_u"].fillna(0.3).to_numpy()
    t_l2 = np.log10(table["teacher_l2"].fillna(0.1).to_numpy())
    s_l2 = np.log10(table["student_l2"].to_numpy())
    size = np.log(table["n_labelled"].fillna(200).to_numpy() / 200)
    base_maj = 1.35 - 0.5 * low + 0.2 * size - 0.1 * np.abs(t_l2 + 1.5)
    base_min = 0.05 + 2.0 * low + 0.2 * size - 0.1 * np.abs(t_l2 + 1.5)
    gain = 0.45 - 4.0 * (high - low) ** 2 - 0.15 * index + 0.25 * (s_l2 + 0.5)
    p, q = table["keep_fraction"].fillna(1).to_numpy(), table["gce_q"].fillna(0).to_numpy()
    mismatch = np.abs(high - low) > 0.25
    bump = np.where(enhanced, np.where(mismatch, 0.5, 0.12) * (q - 0.2) - 1.2 * (p - 0.6) ** 2, 0.0)
    means = {
        "teacher": (base_maj, base_min),
        "ceiling": (base_maj * 0 + 1.9 - 0.8 * high, base_maj * 0 + 0.6 + 2 * high),
        "student": (base_maj + gain + bump, base_min + 0.8 * gain + 1.4 * bump),
    }
    draw = ["seed", "eta_l", "n_labelled", "teacher_l2"]
    table["teacher_codes"] = _codes(table, draw)
    table["ceiling_codes"] = _codes(table, ["seed", "eta_u", "n_unlabelled", "student_l2"])
    table["student_codes"] = np.arange(len(table))
    row_effect = rng.normal(0, 1.0, num_test).astype(np.float32)
    shared = rng.logistic(0, 0.5, (seeds, num_test)).astype(np.float32)
    seed_effect = rng.normal(0, 0.12, seeds)
    seed = table["seed"].to_numpy()
    for model, (majority, rare) in means.items():
        codes = table[f"{model}_codes"].to_numpy()
        own = rng.logistic(0, 0.35, (codes.max() + 1, num_test)).astype(np.float32)
        jitter = rng.normal(0, 0.12, codes.max() + 1)
        level = np.where(minority, rare[:, None], majority[:, None]) - 0.05 * labels
        level += (seed_effect[seed] + jitter[codes])[:, None]
        bits = level + row_effect + shared[seed] + own[codes] > 0
        values = _metrics(table, model, bits, groups)
        valid = np.clip(bits[:, :: max(1, num_test // 100)].mean(1), 0, 1)
        has_validation = table["n_validation"].to_numpy() > 0
        values[f"{model}_validation_accuracy"] = np.where(has_validation, valid, np.nan)
        if model == "ceiling" and not ceiling:
            values = {name: None if "correct" in name else np.nan for name in values}
            values["ceiling_status"] = None
        if model == "teacher" and outside_teacher:
            values["teacher_status"] = None
        table = pd.concat([table, pd.DataFrame(values, index=table.index)], axis=1)
    test_counts = {f"test_count_group_{g}": count for g, count in enumerate(counts)}
    table = pd.concat([table, pd.DataFrame(test_counts, index=table.index)], axis=1)
    above = table["ceiling_accuracy"] - table["teacher_accuracy"]
    recovered = (table["student_accuracy"] - table["teacher_accuracy"]) / above
    table["pgr"] = recovered.where(above > 1 / num_test)
    kept = np.floor(p * table["n_unlabelled"] + 0.5)
    table["kept_count"] = kept.astype(int)
    noise = rng.normal(0, 0.01, (3, len(table)))
    table["kept_minority_fraction"] = high * (0.55 + 0.45 * p) + noise[0] * high
    table["kept_pseudolabel_accuracy_majority"] = 0.95 - 0.12 * p + noise[1]
    table["kept_pseudolabel_accuracy_minority"] = 0.78 - 0.2 * p + 0.1 * low + noise[2]
    f = table["kept_minority_fraction"]
    table["kept_pseudolabel_accuracy"] = (1 - f) * table["kept_pseudolabel_accuracy_majority"] + (
        f * table["kept_pseudolabel_accuracy_minority"]
    )
    if np.isnan(table["eta_u"]).all():
        for name in [name for name in table if name.startswith("kept_") and name != "kept_count"]:
            table[name] = np.nan
    codes = [f"{model}_codes" for model in means]
    return table.drop(columns=["vanilla_number", *codes])
