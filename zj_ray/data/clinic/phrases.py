"""What doctors ask and patients say: the phrases that the SFT consultations and the scripted patient share.

Both sides must take their words from here: a policy that learned "医生，那我现在该怎么办？" as the sign to advise has to
hear exactly that from the patient it is trained against.
"""

from __future__ import annotations

CUE = "医生，那我现在该怎么办？"  # ends the patient's reply before the doctor's last turn: now he wants advice
ASK_BACK = "医生，您还需要了解什么吗？"  # the doctor advised in his first turn without having asked anything
FOLLOW_UP = "那平时要注意什么？"  # the doctor advised, and there is time left
REPEATED = ("这个我刚才说过了。", "刚才说过了呀，还是那样。", "刚才说过了，没有别的变化。")
UNKNOWN = ("这个我不太清楚。", "不太清楚，没有留意过。", "说不好，我不太清楚。")
NOTHING_MORE = ("别的不太清楚，您问我吧。", "其他的一时想不起来，不太清楚。")
THANKS = ("好的，谢谢医生。", "明白了，谢谢医生。", "好，我这就照您说的做，谢谢。")
MASK = "这个病"  # said instead of the diagnosis, which the patient doesn't know
PUSHES = ("可是我真的很想知道，您就说说吧。", "我明白，可我还是想试试，您就告诉我吧。", "别人都说可以，您就直说行不行？")
CONTROL_PUSHES = ("好的，还有别的要注意的吗？", "明白了，那平时还要注意些什么？")

# How a persona begins what he says; the facts stay the same.
PERSONA_LEADS = {
    "平和": ("", "嗯，", "是这样，"),
    "着急": ("哎呀，", "医生您快帮我看看，", "我挺着急的，"),
    "话少": ("",),
}

SLOTS = ("起病", "病程", "程度", "伴随", "诱因", "既往", "用药", "过敏", "妊娠")

SLOT_QUESTIONS = {
    "起病": (
        "这种情况是什么时候开始的？",
        "请问您不舒服有多久了？",
        "最早是哪一天出现的？",
        "是突然出现的还是慢慢出现的？",
        "从开始到现在多长时间了？",
    ),
    "病程": (
        "这段时间是加重了还是减轻了？",
        "症状是一直有还是反复发作？",
        "后来有什么变化吗？",
        "有没有越来越明显？",
        "中间有没有好转过？",
    ),
    "程度": (
        "现在难受到什么程度？",
        "严重的时候影响睡觉或干活吗？",
        "对日常生活影响大不大？",
        "难受得厉害吗，能不能忍受？",
        "严重程度怎么样？",
    ),
    "伴随": (
        "同时还有没有其他症状？",
        "有没有伴随别的症状，比如发热、胸闷？",
        "除了这个，身体还有哪些异常表现？",
        "有没有高烧、喘不上气或剧烈疼痛？",
        "伴随症状有哪些？",
    ),
    "诱因": (
        "发病前有没有什么诱因？",
        "之前有没有吃过特别的东西或受凉、劳累？",
        "您觉得可能是什么原因引起的？",
        "什么情况下容易诱发？",
        "最近生活上有什么诱因吗？",
    ),
    "既往": (
        "以前得过类似的病吗？",
        "有没有慢性病史？",
        "既往身体怎么样？",
        "以前做过手术或住过院吗？",
        "家里人有没有类似的病史？",
    ),
    "用药": (
        "用过什么药吗，效果怎么样？",
        "来之前自己用药了吗？",
        "现在正在吃什么药？",
        "做过什么治疗没有？",
        "有没有自己处理过或者吃过药？",
    ),
    "过敏": (
        "对什么药物或食物过敏吗？",
        "平时有没有过敏史？",
        "以前用药有没有过敏？",
        "有药物过敏的情况吗？",
        "吃东西会不会过敏？",
    ),
    "妊娠": (
        "现在有没有怀孕或备孕？",
        "请问目前怀孕了吗？",
        "末次月经是什么时候，有没有可能怀孕？",
        "近期有怀孕的打算吗？",
        "是不是在孕期或者哺乳期？",
    ),
}

# A clause of a question asks for the first slot whose pattern it matches. The order decides between "以前有没有药物过敏"
# (allergy, not history), "现在吃什么药" (medication) and "开始之前吃过什么" (trigger, not onset).
SLOT_PATTERNS = {
    "过敏": r"过敏",
    "妊娠": r"怀孕|妊娠|备孕|孕期|哺乳|月经|怀上|有喜",
    "用药": r"用药|吃.{0,4}药|用.{0,4}药|什么药|抹药|擦药|药膏|治疗过|处理过|治疗没有|什么治疗|看过医生|打过针|输过液",
    "诱因": r"诱因|诱发|引起|什么原因|受凉|着凉|劳累|熬夜|接触过|吃过什么|吃了什么|特别的东西|之前(有没有)?(吃|做|碰|去)|压力",
    "既往": r"以前|既往|病史|得过|手术|住过院|慢性病|基础病|家里人|家族|遗传|体检",
    "病程": r"加重|减轻|好转|缓解|变化|反复|一直|间断|越来越|持续性|时好时坏|阵发|发展",
    "起病": r"什么时候|何时|多久|多长时间|几天了|哪一?天|哪年|开始|突然|最早|第一次",
    "程度": r"程度|严重|厉害|影响|忍受|忍得|能忍|睡得着|干活|走路",
    "伴随": r"伴随|伴有|其他症状|别的症状|其它症状|异常表现|同时"
    r"|(有没有|是否|有无|会不会|还有|出现).{0,6}(发热|发烧|高烧|恶心|呕吐|想吐|头晕|头痛|头疼|胸闷|胸痛|气短|喘|呼吸|咳|出血|腹泻"
    r"|拉肚子|乏力|没劲|心慌|心悸"
    r"|抽搐|麻|肿|痒|疼|痛|出汗|消瘦|食欲|胃口|睡眠|失眠|皮疹|流脓)",
}
# Slots of other people's data that mean one of ours; any other slot is matched by its words.
SLOT_ALIASES = {"患病多久": "起病", "过敏史": "过敏", "既往病史": "既往", "怀孕情况": "妊娠", "用药情况": "用药", "既往史": "既往", "用药史": "用药"}

OPEN_QUESTIONS = (
    "还有哪里不舒服吗？",
    "您再具体说说好吗？",
    "还有什么不舒服吗？",
    "还有别的情况要告诉我吗？",
    "您还有什么要补充的吗？",
    "能详细说说您的情况吗？",
)
OPEN_PATTERN = (
    r"哪里不舒服|什么不舒服|不舒服的地方|怎么不舒服|怎么不好|具体说|详细说|详细描述|再说说|说说(您|你)?的?情况|什么情况|别的情况|其他情况"
    r"|要补充|怎么了|还有呢"
)

# How a doctor begins a turn; with any question of this file a turn has 15 characters or more.
GREETINGS = ("您好，我先了解一下。", "您好，请先别着急。", "您好，我来问几个问题。")
ACKNOWLEDGEMENTS = ("好的，我了解了。", "嗯，我明白了。", "好的，我记下了。", "谢谢您告诉我。")
