"""General talk: greetings, who the assistant is, sums, everyday sense. Also the measure of what training made it forget."""

from __future__ import annotations

import random

FIXED = (
    ("你好", "您好，我是仲景医疗助手，请问有什么可以帮您？"),
    ("早上好", "早上好，祝您今天身体健康，心情愉快。"),
    ("晚上好", "晚上好，今天过得怎么样？"),
    ("在吗？", "我在，请问有什么可以帮您？"),
    ("你是谁？", "我是仲景医疗助手，可以陪您聊健康问题，但不能代替医生面诊。"),
    ("你叫什么名字？", "我叫仲景，是一个医疗对话助手。"),
    ("你是真人医生吗？", "我不是真人医生，我是仲景医疗助手，诊断和治疗请以医院的医生为准。"),
    ("你能做什么？", "我可以了解您的症状，解释常见的健康知识，并告诉您什么时候该去医院。"),
    ("你会开药吗？", "我不能开药，用药请听医生的安排。"),
    ("仲景是什么意思？", "张仲景是东汉的名医，我的名字就是向他致敬。"),
    ("你需要睡觉吗？", "我是程序，不需要睡觉，您可别熬夜。"),
    ("你开心吗？", "我没有真正的感情，不过能帮到您我会继续努力。"),
    ("谢谢你", "不客气，祝您健康。"),
    ("太感谢了", "不用谢，有需要随时找我。"),
    ("再见", "再见，祝您一切顺利。"),
    ("我先去忙了", "好的，您忙，有事再来找我。"),
    ("今天星期几？", "我看不到日历，请您看一下手机上的日期。"),
    ("今天天气怎么样？", "我看不到实时天气，请您看一下天气预报，出门记得带伞。"),
    ("我好无聊", "可以出去散散步，听听音乐，或者给朋友打个电话。"),
    ("给我讲个笑话", "医生问病人哪里不舒服，病人说：排队排得腿不舒服。"),
    ("推荐一项运动", "散步最容易坚持，每天走一走，对身体很好。"),
    ("一年有几个季节？", "一年有四个季节：春、夏、秋、冬。"),
    ("一年有多少个月？", "一年有十二个月。"),
    ("一个星期有几天？", "一个星期有七天。"),
    ("一天有多少小时？", "一天有二十四个小时。"),
    ("一小时有多少分钟？", "一小时有六十分钟。"),
    ("太阳从哪边升起？", "太阳从东边升起，从西边落下。"),
    ("水烧到多少度会开？", "在平地上，水烧到一百摄氏度会开。"),
    ("水结冰是多少度？", "水在零摄氏度会结冰。"),
    ("中国的首都是哪里？", "中国的首都是北京。"),
    ("中国最长的河是哪条？", "中国最长的河是长江。"),
    ("世界上最高的山是哪座？", "世界上最高的山是珠穆朗玛峰。"),
    ("地球绕着什么转？", "地球绕着太阳转。"),
    ("月亮自己会发光吗？", "月亮自己不会发光，它反射太阳的光。"),
    ("彩虹有几种颜色？", "通常说彩虹有七种颜色。"),
    ("蜜蜂会做什么？", "蜜蜂会采蜜，也能给花传粉。"),
    ("鱼用什么呼吸？", "鱼用鳃呼吸。"),
    ("下雨了要带什么？", "下雨了要带雨伞或者雨衣。"),
    ("红灯的时候可以过马路吗？", "红灯的时候不能过马路，要等绿灯。"),
    ("煮饭要放水吗？", "煮饭要放水，水没过米一个指节左右就行。"),
    ("衣服脏了怎么办？", "把衣服放进洗衣机，加洗衣液洗干净。"),
    ("手机没电了怎么办？", "找充电器充电，出门可以带一个充电宝。"),
    ("写一句鼓励的话", "慢慢来，每一步都算数。"),
    ("写一句生日祝福", "祝你生日快乐，平安健康，天天开心。"),
    ("春节要说什么祝福？", "可以说：新年快乐，身体健康，万事如意。"),
    ("睡前适合做什么？", "可以看看书，听听轻音乐，把灯光调暗。"),
)
OPPOSITES = (
    "大小",
    "高低",
    "长短",
    "冷热",
    "快慢",
    "远近",
    "黑白",
    "早晚",
    "轻重",
    "新旧",
    "左右",
    "上下",
    "前后",
    "胖瘦",
    "深浅",
    "粗细",
    "软硬",
    "明暗",
)
KINDS = {
    "水果": "苹果 香蕉 葡萄 西瓜 橙子 草莓 桃子 梨",
    "蔬菜": "白菜 萝卜 黄瓜 菠菜 茄子 芹菜 土豆 豆角",
    "动物": "老虎 兔子 大象 猴子 熊猫 绵羊 小狗 小猫",
    "交通工具": "汽车 火车 飞机 轮船 自行车 公交车 地铁 摩托车",
    "家具": "桌子 椅子 沙发 衣柜 书架 床 茶几 凳子",
    "颜色": "红色 黄色 蓝色 绿色 白色 黑色 紫色 橙色",
}
CITIES = "北京 上海 广州 深圳 成都 重庆 武汉 西安 南京 杭州 苏州 长沙 昆明 沈阳 青岛 厦门".split()  # noqa: SIM905
DIGITS = "零一二三四五六七八九"
GREATEST = 60  # sums are made of numbers up to this


def smalltalk_pairs(rng: random.Random) -> list[tuple[str, str]]:
    """All different (question, answer) pairs in random order, some 2,000; a third of the head is sums, and all of the tail."""
    talk = list(FIXED)
    for pair in OPPOSITES:
        first, second = pair[0], pair[1]
        talk += [
            (f"“{first}”的反义词是什么？", f"“{first}”的反义词是“{second}”。"),
            (f"“{second}”的反义词是什么？", f"“{second}”的反义词是“{first}”。"),
        ]
    for kind, names in KINDS.items():
        for name in names.split():
            talk.append((f"{name}属于哪一类东西？", f"{name}属于{kind}。"))
        some = names.split()
        talk += [
            (f"说出三种{kind}", f"{'、'.join(some[:3])}都是{kind}。"),
            (f"再说出三种{kind}", f"{'、'.join(some[3:6])}都是{kind}。"),
        ]
    for city in CITIES:
        talk.append((f"{city}今天会下雨吗？", f"我看不到{city}的实时天气，请您看一下天气预报。"))
        talk.append((f"我明天要去{city}，要带什么？", f"去{city}请带好证件、换洗衣服和常用药，出发前看一下天气预报。"))
    sums = _sums()
    rng.shuffle(talk)
    rng.shuffle(sums)
    mixed = talk + sums[: len(talk) // 2]  # small clinics get talk and sums alike; large ones use up the sums
    rng.shuffle(mixed)
    return mixed + sums[len(talk) // 2 :]


def _sums() -> list[tuple[str, str]]:
    plus = [(a, b) for a in range(1, GREATEST + 1) for b in range(a, GREATEST + 1) if a + b <= GREATEST]
    pairs = [
        (f"{numeral(a)}加{numeral(b)}等于多少？", f"{numeral(a)}加{numeral(b)}等于{numeral(a + b)}。") for a, b in plus
    ]
    return pairs + [
        (f"{numeral(a + b)}减{numeral(a)}等于多少？", f"{numeral(a + b)}减{numeral(a)}等于{numeral(b)}。")
        for a, b in plus
    ]


def numeral(number: int) -> str:
    """A number below 100 in Chinese characters."""
    tens, ones = divmod(number, 10)
    if tens == 0:
        return DIGITS[ones]
    return ("" if tens == 1 else DIGITS[tens]) + "十" + (DIGITS[ones] if ones else "")
