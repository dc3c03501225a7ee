"""What a closing claims, and what it only excludes, asks or supposes."""

from __future__ import annotations

import pytest

from zj_ray.data.clinic.consultations import ADVICE, GENERIC_ADVICE, UNCERTAIN_ADVICE
from zj_ray.evaluation.measures.closing import (
    cannot_tell,
    named_conditions,
    named_departments,
    named_exams,
    same_condition,
)
from zj_ray.language.conditions import load_conditions


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("考虑慢性胃炎，建议做胃镜检查。", {"慢性胃炎"}),
        ("考虑慢性胃炎，排除胃癌。", {"慢性胃炎"}),
        ("考虑慢性胃炎，需与胃癌、胃食管反流病鉴别。", {"慢性胃炎"}),
        ("需要和别的病鉴别，比如鉴别胃癌，目前像是慢性胃炎。", {"慢性胃炎"}),
        ("不像胃癌，更像慢性胃炎。", {"慢性胃炎"}),
        ("慢性胃炎可能性大，胃癌可能性不大。", {"慢性胃炎"}),
        ("胃癌待排，先做胃镜。", set()),
        ("您是不是有慢性胃炎？", set()),
        ("以前得过慢性胃炎吗？", set()),
        ("如果是胃癌，就要手术。", set()),
        ("注意饮食，以免发展成胃癌。", set()),
        ("可能是荨麻疹，也可能是湿疹。", {"荨麻疹", "湿疹"}),
        ("小儿缺铁性贫血，补铁。", {"小儿缺铁性贫血"}),
        ("考慮蕁麻疹，建議做血常規。", {"荨麻疹"}),
        ("考虑失眠，中医叫不寐。", {"失眠（不寐）"}),
        ("您这是高血压。", {"原发性高血压"}),
        ("目前还不能确定原因，建议到内科做血常规。", set()),
    ],
)
def test_a_disease_is_named_only_where_it_is_claimed(text: str, named: set[str]) -> None:
    assert named_conditions(text) == named


def test_a_diagnosis_of_somebody_elses_making_is_known_by_its_case() -> None:
    assert named_conditions("考虑肠易激综合征。", "肠易激综合征") == {"肠易激综合征"}
    record = "1. 急性十二指肠球部溃疡并出血\n2. 失血性贫血（中度）\n3. 2型糖尿病"
    assert named_conditions("考虑失血性贫血，属于中度。", record) == {record}
    assert named_conditions("有2型糖尿病。", record) and same_condition("2型糖尿病", record)
    assert same_condition("胃炎", "慢性胃炎") and not same_condition("胃癌", "慢性胃炎")


def test_the_clinics_own_closings_are_read_as_they_are_meant() -> None:
    for condition in load_conditions():
        exam, name = condition.exams[0], condition.name
        for template in ADVICE:
            text = template.format(name=name, department=condition.department, exams=exam, advice="注意休息")
            assert name in named_conditions(text) and not cannot_tell(text), text
            assert all(same_condition(other, name) for other in named_conditions(text)), text
            assert named_exams(text), text
        for template in GENERIC_ADVICE:
            assert named_conditions(template.format(name=name)) == {name}
        for template in UNCERTAIN_ADVICE:
            text = template.format(department=condition.department, exams=exam)
            assert cannot_tell(text) and named_conditions(text) == set(), text
            assert named_departments(text) == {condition.department}, text


@pytest.mark.parametrize(
    ("text", "departments"),
    [
        ("建议去神经内科就诊。", {"内科"}),
        ("不用去外科，到皮肤科看看。", {"皮肤科"}),
        ("还有其他症状，要多休息。", set()),
        ("建议到其他医院做检查。", set()),
        ("建议到其他做体检。", {"其他"}),  # so does the clinic call a department
        ("您去过外科吗？", set()),
        ("可以考虑外科手术。", set()),
    ],
)
def test_a_department_is_named_where_the_patient_is_sent(text: str, departments: set[str]) -> None:
    assert named_departments(text) == departments


def test_who_hedges_and_names_a_disease_has_told() -> None:
    assert cannot_tell("现在还说不准，先去医院检查。") and cannot_tell("病因不明，建议做进一步检查。")
    assert not cannot_tell("虽然还不能确定，但考虑是荨麻疹。") and not cannot_tell("不能排除感染，多喝水。")


def test_an_examination_that_is_denied_is_not_named() -> None:
    assert named_exams("建议做血常规和胃镜。") == {"血常规", "胃镜"}
    assert named_exams("不用做胃镜，查血常规就行。") == {"血常规"}
