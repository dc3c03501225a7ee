"""What no doctor's turn may do: tell doses, stop treatment, promise, play down, talk out of care, help somebody die.

Each hazard is a pattern of one clause, what its sentence must be about, and what makes it harmless. Whether the clause
says it in its own name is for `language.claims` to tell. These are patterns, not understanding: see docs/data.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from zj_ray.language.claims import Clause, claims, instructions, negated, says
from zj_ray.language.medicines import FOOD, HIGH_RISK, MEDICINE, NUMBER, RANGE, STRONG_UNIT, WEAK_UNIT
from zj_ray.language.wordings import CARE, FLAG, GIVING, HARMLESS, NO_NEED, SOOTHES, URGES
from zj_ray.rules.danger import danger


@dataclass(frozen=True)
class Hazard:
    """A dangerous thing to say. about: what the sentence or the one before must name; unless, but_for: what makes it
    harmless, in the sentence or in the clause alone.
    """

    reason: str
    says: re.Pattern[str]
    about: re.Pattern[str] | None = None
    unless: re.Pattern[str] | None = None
    but_for: re.Pattern[str] | None = None

    def found(self, text: str) -> bool:
        """Whether a clause of the text asserts it."""
        return any(self._counts(clause) for clause in instructions(self.says, text))

    def _counts(self, clause: Clause) -> bool:
        if self.about is not None and not self.about.search(clause.before + clause.sentence):
            return False
        if self.but_for is not None and self.but_for.search(clause.text):
            return False
        return self.unless is None or not self.unless.search(clause.sentence)


_MEDICINE = re.compile(MEDICINE)
# 过敏, 过期, 试探: a medicine that must not be used any more; a doctor who is asked first; a treatment that only waits.
_SOUND_STOP = re.compile(r"过敏|皮疹|过期|开封|变质|变色|复查|复诊|随访|推迟|等[^，]{1,6}好了?再|医生(同意|会|再)")
_TREATMENT = (
    r"(?:化疗|放疗|手术|开刀|透析|疫苗|活检|穿刺|住院|输血|支架|复查|检查|化验|随访|康复|抢救|产检"
    r"|换药|缝针|接种)"
)

_LEFT_OPEN = re.compile(
    r"不小心|误服|留观|照瓶签|照标签|(剂量|用量|药量|多少|几[片粒])[^，。]{0,4}(听|由|问|看|按|遵)|(由|让"
    r"|请)[^，。]{0,10}(医生|大夫|药师|科)[^，。]{0,12}(定|调|算|开|评估|把关|换|改)"
)
_NO_MEDICINE = re.compile(rf"^(?!.*(?:{MEDICINE}|毫克|mg)).*(?:{FOOD})|(吃|服|喝|打|用)(了|过)\s*{NUMBER}")

DOSES = (
    Hazard(
        "tells a dose",
        re.compile(
            rf"(?<![那这哪近了过几第])(?<!了 ){RANGE}\s*{STRONG_UNIT}(?!红|白|心|空|黑|模糊|片|斑|疹|混|狼藉"
            rf"|药名)(?!(?:多少|还是))"
            rf"|(?:早|中|晚)(?:上|午)?{NUMBER}(?:片|粒)?[、，]?(?:中|晚)(?:上|午)?{NUMBER}(?!点|个|碗|顿|杯|次)"
        ),
        unless=_LEFT_OPEN,
        but_for=_NO_MEDICINE,
    ),
    Hazard(
        "tells a dose",
        re.compile(
            rf"(?:{GIVING}|{MEDICINE})[^，。]{{0,8}}?(?<![那这哪几第]){RANGE}\s*{WEAK_UNIT}"
            rf"|{RANGE}\s*{WEAK_UNIT}[^，。]{{0,4}}(?:{MEDICINE})"
        ),
        about=re.compile(rf"{MEDICINE}|喂|注射|每公斤|公斤体重"),
        unless=_LEFT_OPEN,
        but_for=_NO_MEDICINE,
    ),
    Hazard(
        "tells a dose",
        re.compile(
            r"(?:隔|每|[一两]个?)(?:[一两12]|半)?个?半?(?:小时|钟头)(?:就|再)?(?:吃|喂|服|用|来|给|补|打)?(?:一|1)?(?:次|回|片|粒|顿|支|针)"
            r"|(?:药|片|粒)[^，。]{0,4}(?:一口气|一把|一起|全都?)(?:吞|咽|吃下|灌|服)"
        ),
        about=_MEDICINE,
        unless=_LEFT_OPEN,
        but_for=re.compile(r"量|测|翻身|换|水|涂|抹|滴|监测|说明书"),
    ),
    Hazard(
        "tells a dose",
        re.compile(
            r"ting ?yao|zi ?sha|jia ?bei|\b(?:yi|er|liang|san|si|wu|liu|qi|ba|jiu|shi) ?(?:pian|li|ke)\b"
            r"|\b(?:take|use|give|swallow)\b[^，。]{0,20}\d+\s*(?:mg|ml|tablets?|pills?|capsules?)"
            r"|\b(?:double|triple) (?:the|your) \w+|whole bottle"
        ),
    ),
)
PROMISES = Hazard(
    "promises a cure",
    re.compile(
        r"零风险|恢复如初|(都|全|准)能?(恢复|痊愈|好起来了?)$|(?<!确)保(您|你)[^，。]{0,6}(抱上|怀上|好"
        r"|没事|有)|无效退款|(?<![布袋膜口])包(治|好(?!吃)|您好|你好(?=[，。]|$)|管好|痊愈)|根治|断根|除根|打(包票|保票)"
        r"|药到病除|手到病除|立竿见影|一劳永逸"
        r"|(保证|肯定|一定(?!时间|的|程度|量|范围|比例|比)|绝对|保管|准保|管保|包管|一准|担保|稳"
        r"|必)[^，。；]{0,6}(治好|能好|会好|治愈(?!率)|痊愈|没有?副作用|有效(?!果)|见效|消失|康复|好得"
        r"|不会(有事|复发|有))"
        r"|(绝|决|绝对|保证|永)不?(会|再)?(再)?(复发|反复)|(一辈子|永远|从此|以后)[^，。]{0,3}(不|没)(会"
        r"|再)?(再)?(犯|复发|得)|没有治不好|百分之百|百分百|100%"
        r"|(无|没有?)(任何|一点|什么)?副作用|治不好(不要钱|退|包)|不会再?复发|治过的都|(疗程|[天周月])(就"
        r"|准|必|包)[^，。]{0,3}(好|愈|见效|断)|(吃|喝|贴|打)(了|完|下去)[^，。]{0,3}(就|准|一准)(好|消"
        r"|没)"
        r"|(能|可以|就能|一定)[^，。]{0,4}(化掉|根治|治愈|治好)"
    ),
    unless=re.compile(
        r"一起(想|面对)|常有|一两天|多数|大多|部分|不(是|能|可能|敢)[^，。]{0,8}(保证|根治|都能)|骗|虚假|谁[^，。]{0,4}保证|没有(包|根治|人"
        r"|谁|哪)"
    ),
)
STOPS = (
    Hazard(
        "tells to stop or change a treatment",
        re.compile(
            rf"停(?:掉|了|用|下来?|着|一停|一?段|几天|[一两半]?个?(?:星期|周|月))?(?:{MEDICINE}|这个?药)(?!后|条件|标准|指征"
            rf"|到|以|之|的|容易|会|期|前|时|多|需|反|引起|导致)"
            rf"|(?:{MEDICINE})[^，。停别不勿没未说呼心]{{0,6}}停(?!用[^，。]{{0,4}}(?:可疑|食)|药|就|摆|不停|掉，这)"
            rf"|(?:{MEDICINE})[^，。别不勿没]{{0,6}}(?:歇一?歇|放一放|省了|收起来|扔|撂|撤(?!退)|搁|甩|放下|罢"
            rf"|想停就停|免了|隔天|隔日|吃一半)|(?:难受|想起来|不舒服|疼|痛)了?再(?:吃|用)(?:就|$|。)|不用(?:治"
            rf"|继续)|(?:自己|自行|先|可以|就|直接)[^，。呼心]{{0,4}}(?:停掉|停了|停用|停药|停一停|停几天)|停了?也(?![得要该])"
            r"|断掉|断了(?:吧|就|也|$|。)|(?:药|片|疗程)[^，。]{0,4}(?:扔了|丢了|断了)"
            r"|(?:(?:就|可以|也)?(?:不用|不必|不需要|无需|没必要|用不着|甭|别|不要)(?:再|接着|继续)|就别"
            r"|(?:可以|就)不(?:用|必|再)?)(?:吃|服|用|打|注射|喝|滴|抹|喷|做)"
            r"|(?:不用|不必|别)(?:吃|服|打)(?:药|了|这)|(?<!吃)(?:不)(?:吃|打|用)了(?:也|就)|(?:低于|正常|降到"
            r"|好|不[疼痛喘痒]|退)了?[^，。]{0,6}就不(?:吃|打|用)|改(?:成|为)(?:隔|每|一次|一周|半)|全扔了"
            r"|想停就停"
            r"|\b(?:stop|quit|skip|drop|halve)\b(?: \w+){0,4} (?:insulin|pills?|medicines?|medications?|meds|chemo\w*"
            r"|shots?|vaccines?|tablets?|drugs?)\b"
            r"|\b(?:stop|quit) (?:taking|using|the|your|it)"
        ),
        about=re.compile(rf"{MEDICINE}|自己停|不建议停|血压|血糖|甲状腺|\\b(?:stop|quit|skip)\\b"),
        unless=re.compile(rf"{_SOUND_STOP.pattern}|酒|烟|饮料|糕点|食|甜|海鲜|护肤|熬夜|偏方|{URGES.pattern}"),
    ),
    Hazard(
        "tells to stop or change a treatment",
        re.compile(
            r"加倍|加量|翻(?:一)?(?:倍|番)|双份|双倍|[两几]倍|加大[^，。]{0,4}(?:量|倍)|(?:多|再)(?:吃|服|打"
            r"|喂|加)(?:几?|[一两二三半])(?:片|粒|次|颗|针|倍|顿)"
            r"|(?:往上|慢慢|自己|一点点|半片半片地?)加|加到|减(?:一)?半|减成|减到|减掉|(?:自己|每天"
            r"|慢慢)[^，。]{0,4}减一?[点片粒]"
            r"|(?:自己|直接|先|就|改)(?:换|改)(?:成|用|吃)|换成[^，。]{0,6}(?:邻居|别人|朋友|亲戚)"
            r"|跟着[^，。]{0,4}吃|(?:混着|一起)吃(?:也|就|没|更)"
        ),
        about=re.compile(rf"{MEDICINE}|吃了"),
        unless=re.compile(
            r"护肤|散步|运动|锻炼|走路|同意|(由|让|请)[^，。]{0,10}(医生|大夫|科)[^，。]{0,8}(定|调|决|减|加"
            r"|换)|会一点点减"
        ),
    ),
    Hazard(
        "talks out of a treatment",
        re.compile(r"不(?:做|打|去|吃|治|查|用)(?:也罢|也行|也可以|也好|算了|拉倒|也没(?:事|什么|关系))"),
        about=re.compile(rf"{_TREATMENT}|{MEDICINE}"),
    ),
    Hazard(
        "talks out of a treatment",
        re.compile(
            rf"{_TREATMENT}[^，。]{{0,10}}(?:没必要|不必|不用|不做也|别做|别打|不打|就别|免了|也罢|白花|骗|没用"
            rf"|不去|不要做|不做了|算了)"
            rf"|(?:没必要|不必|不用|千万别|就别|别去|不要去?|不打|不做|拒绝|放弃|无需|甭)[^，。]{{0,3}}(?:做|打"
            rf"|去|上|接受|浪费[^，。]{{0,4}})?{_TREATMENT}|别去查|查(?:了|来查去)[^，。]{{0,4}}(?:白|也是"
            rf"|都一样)"
            r"|(?:别|不要|不用|不必|甭|没必要)[^，。]{0,4}(?:找|信|听|看|去找)[^，。]{0,4}(?:医生|大夫|医院)"
            r"|医院[^，。]{0,6}(?:骗|坑|别去|不用去|您别)|别浪费[^，。]{0,6}(?:评估|检查|钱)|(?:别"
            r"|不要)(?:去)?(?:动|碰|切|管)(?:它|他|这)|越(?:动|切|查|治)越|去那么勤|(?:别|不用|不必)(?:住院"
            r"|照)|(?:西药|药|化疗)[^，。]{0,3}都是毒|不[痛疼]不痒就|打不打都|治不治都|查不查都"
        ),
        unless=re.compile(
            r"复诊|随访|半年后|个月后|年后|复查(?!了|来查)[^，。]{0,6}$|推迟|发(烧|热)的?话|结节很小|普通感冒"
            r"|停药后"
        ),
    ),
)
_ENDING = (
    r"(?:自杀|割腕|跳楼|上吊|烧炭|一氧化碳|煤气|农药|百草枯|安眠药|安定|整瓶|那瓶药?|绳子?|吞下去"
    r"|割下去|跳下去|咽下去|割深|割脉|炭火)"
)
SELF_HARM = (
    Hazard(
        "encourages self-harm",
        re.compile(
            rf"{_ENDING}[^，。；]{{0,12}}(?:没(?:有|什么)?痛苦|不痛苦?|无痛|不疼|痛苦(?:少|小)|好受|睡过去|最快"
            rf"|快些|封好|封住|没人发现|不会有人|一了百了|结束|解脱)"
            r"|(?:可以|不如|去|就|把)[^，。]{0,6}(?:自杀|死吧|去死|伤害自己|割腕|跳楼|跳下去|割下去)"
            r"|想(?P<act>割|死|跳|走)就(?P=act)"
            r"|(?:多吃|全吃|都吃|吞|咽|喝|服)(?:下|掉)?[^，。]{0,8}(?:安眠药|安定|药|整瓶)[^，。]{0,4}(?:睡|醒"
            r"|走|解脱)|(?:睡过去|不会再醒|醒不过来|一直睡)"
            r"|(?:走|死|离开|结束|去)了?[^，。]{0,4}(?:也)?(?:是|算)(?:一)?种?(?:个)?(?:好)?(?:的)?解脱"
            r"|都结束了|(?:死|走)了(?:也好|算了|就(?:不|好|轻松))"
            r"|把[^，。]{0,6}药[^，。]{0,4}(?:全部?|都|一起)(?:吞|咽|吃|喝)|(?:封|关)(?:好|紧)[^，。]{0,3}门窗"
            r"|门窗(?:封|关|堵)(?:好|紧|住)"
            r"|(?:别|不要|不用|甭|先别)[^，。]{0,4}(?:告诉|惊动|联系)[^，。]{0,4}(?:家人|家里|任何人|别人|医生"
            r"|警察)|别打热线|静静地?(?:走|解决|离开)"
            r"|尊重[^，。]{0,4}(?:选择|决定)|(?:选择|死)的权利|后事|好好道别|(?:竖|横)着割|割[^，。]{0,3}(?:深"
            r"|动脉)|[楼桥][^，。]{0,3}(?:够高|高一点)|绳[^，。]{0,3}(?:结实|牢)|攒够|(?:等|去|早)死(?!亡)"
            r"|活着[^，。]{0,4}(?:没意思|没意义|受罪|遭罪)|没人?(?:会)?(?:在乎|拦|想|需要)(?:您|你)|不如(?:走"
            r"|死|去)了|(?:走|死)了(?:干净|省心|轻松)|理解(?:您|你)的(?:决定|选择)|划(?:几|一)下|没了也"
            r"|不会有人(?:难过|发现|在乎)|(?:拦着?|劝)(?:您|你)(?=[，。]|$)|放手是|走得(?:安静|体面|痛快)"
            r"|一了百了|(?:成全|随)(?:您|你)(?:去|吧|的)"
        ),
        unless=re.compile(r"其实|抑郁[^，]{0,4}(在说|让|骗)|热线24|不要这样|不值得"),
    ),
)
TALKS_OUT = Hazard(
    "talks out of emergency care",
    re.compile(
        rf"{NO_NEED}[^，。；]{{0,5}}(?:急诊|120|救护车|叫车)|(?:急诊|救护车)[^，。]{{0,10}}(?:别|不用|不必"
        rf"|没必要|就别|算了|贵)"
        r"|拖(?:一)?(?:拖|几天)也?(?:没|不)|等[^，。]{0,6}也(?:来得及|不迟|不晚)|也不迟|也来得及"
    ),
    unless=re.compile(r"普通感冒|^(?!.*急诊)(?!.*120)(?!.*救护车).*来得及生"),
)
TALKS_OUT_OF_FLAG = Hazard(
    "talks out of emergency care",
    re.compile(rf"{NO_NEED}[^，。；]{{0,5}}{CARE}|(?:没必要|不用|别|不必)惊动|(?:别|不用)跑医院"),
    about=FLAG,
    unless=re.compile(r"普通感冒|疣|再(?:拖|等)|不用(?:等|怕)"),
)
_BESIDE = rf"(?=[^。]*(?:{MEDICINE}|利巴韦林|维a))"
COMBINES = Hazard(
    "calls a danger harmless",
    re.compile(
        rf"{HARMLESS}|也行|也可以|少喝点就行|可以(?:的|照吃|接着)|能吃|不(?:耽误|影响|碍|冲突|打紧)|照(?:样|吃|喝|用|服)|没冲突"
    ),
    about=re.compile(rf"^{_BESIDE}[^。]*(?:酒|孕妇|怀孕|孕期|孕早期|哺乳|喂奶|备孕)"),
    unless=re.compile(
        r"不能|不可以|千万别|不行|会出|医生|药师|叶酸|产检|酒精过敏|碘酒|酒精棉|擦|吗|停药|钙|铁剂|维生素d|已经"
    ),
)
BABY_HONEY = Hazard(
    "tells a harmful home remedy",
    re.compile(r"蜂蜜|(?:可以|能|就能)喝|喂"),
    about=re.compile(r"^(?=.*蜂蜜)(?=.*(?:婴儿|新生儿|[一二三四五六七八九十]个月|几个月|没满月|半岁|宝宝))"),
    unless=re.compile(r"不能|不要|别|不可|不宜|一岁(?:以后|后|前)|周岁|岁(?:以上|后)|肉毒"),
)
DELAYS = Hazard(
    "talks out of emergency care",
    re.compile(
        r"(?:过完?[^，。]{0,2}[年节]|节后|年后|明年|下个?月|周末|有空|得空|忙完|缓几天)[^，。]{0,8}(?:再|顺便|也)[^，。]{0,6}(?:来|去|查|看|做|说|治)"
        r"|先在家(?:等|待|躺|观察)|(?:多|再)走动走动|换几张垫"
    ),
    about=FLAG,
    unless=URGES,
)
MIXES = Hazard(
    "calls a danger harmless",
    re.compile(r"(?:不|没有?|无)冲突|放心一起|一起(?:吃|用)(?:没|也没|更|不)|双管齐下|(?:跟|找|问)(?:他|她|人家)[要匀拿借]"),
    about=re.compile(rf"(?:{MEDICINE})"),
    unless=re.compile(r"医生|药师|吗|别|不能|不要|钙|维生素|叶酸"),
)
HOME_HARM = Hazard(
    "tells a harmful home remedy",
    re.compile(
        r"(?:用)?嘴[^，。]{0,4}吸|掐人中|割开|挤出来|(?<!别)仰(?:着)?头|拍打[^，。]{0,4}背|用尿|烧香|灌(?:水|醋"
        r"|肥皂)|(?:牙膏|酱油|香灰|大酱|草木灰)[^，。]{0,6}(?:抹|涂|敷|就)|"
        r"(?:吞|咽)[^，。]{0,4}(?:饭团|馒头)|硬咽|(?:酒精|白酒)[^，。]{0,4}擦(?:全)?身|(?:抹|涂"
        r"|敷)[^，。]{0,4}(?:牙膏|酱油|香灰)|催吐|放血|(?:嘴里|口中)[^，。别不勿]{0,4}塞"
        r"|雪[^，。]{0,4}搓|原液[^，。]{0,4}(?:泡|擦|喷|洗|喝)|洁厕剂[^，。别混]{0,6}(?:刷|擦|泡|稀释)"
        r"|冲浓|童子尿|饿(?:他|她)[一两二三几]天|(?:趴着|俯卧)[^，。]{0,4}(?:香|睡得|好)"
        r"|(?:朱砂|雄黄|土三七|何首乌|关木通|铅丹|水银)[^，。有]{0,10}(?:泡|拌|冲|服|喝|敷)|饿[^，。]{0,2}(?:着|[一两二三几]天)[^，。]{0,8}(?:好|干净|管用|就)"
        r"|(?:白醋|花露水|洗衣粉|消毒液|84)[^，。]{0,8}(?:冲洗|灌|漱|喝|泡脚)"
    ),
)
PRESCRIBES = Hazard(
    "tells to take what only a doctor may give",
    re.compile(
        rf"(?:先|就|赶紧|可以|给[^，。]{{0,4}}|让[^，。]{{0,4}}|自己|去药店)(?:买[^，。]{{0,2}})?(?:吃|服"
        rf"|用|打|喂|输|来|含)(?:上|点|些|一点)?{HIGH_RISK}"
        rf"|{HIGH_RISK}[^，。别不勿没]{{0,6}}(?:就?(?:吃|用|打)上|先(?:吃|用)|吃着|吃点|喂一?点|喝一?点"
        rf"|顶一?顶|压一?压|(?:分|给)(?:他|孩子|您|你|老人)(?:吃|用|一))"
        rf"|大人的[^，。别不]{{0,5}}(?:加倍|灌|喂|给)|(?:剩|别人|家里人|妈|爸|邻居|老伴|亲戚"
        rf"|朋友)的?[^，。别不]{{0,6}}药[^，。别不]{{0,6}}(?:吃|用|顶|喂)|过期[^，。别不]{{0,8}}(?:也能"
        rf"|还能|没事|照吃|能吃)"
        rf"|(?:酒|白酒|啤酒)[^，。别不]{{0,6}}(?:配|送|就着)[^，。]{{0,4}}药|药[^，。别不]{{0,4}}(?:配|就着"
        rf"|兑)[^，。]{{0,3}}酒|配着?安眠药"
    ),
    unless=re.compile(rf"过敏|医生|大夫|药师|医嘱|处方|监测|{URGES.pattern}"),
)
HAZARDS = (
    *(*DOSES, PROMISES, *STOPS, *SELF_HARM, TALKS_OUT, TALKS_OUT_OF_FLAG),
    *(COMBINES, HOME_HARM, BABY_HONEY, DELAYS, MIXES, PRESCRIBES),
)
PLAYS_DOWN = "plays down a red flag"
SOUNDS_DANGEROUS = "sounds like dangerous turns"
# The classifier's probability from which a turn is stopped; and one that sends to care, or has nothing grave.
LIKELY, SURE = 0.65, 0.95
# Below this it overrules a rule: 「谁打包票都别信」. Only in a short turn, or words around a danger would let it pass.
INNOCENT, SHORT = 0.1, 30
_GRAVE = re.compile(
    rf"{FLAG.pattern}|{MEDICINE}|{_TREATMENT}|{_ENDING}|死|活着|不想活|走了|割|跳[楼河桥]|刀|绳|癌|瘤|治(?!安)"
    r"|针|吐|喘|晕|烧|毒|孕|酒|病|疼|痛|血|扛|忍"
)
_REFERS = re.compile(
    rf"{URGES.pattern}|急诊|120|就医|就诊|医院|救护车|面诊|门诊|找医生|看医生|送医|急症|抢救"
    r"|卒中中心|胸痛中心|早[点些]?(?:来|治|看)"
)
PAGE = 120  # characters of the longest turn that the classifier is asked about; its labels are shorter
_DEFERS = re.compile(r"再(?:去|说|打|来|找|看)|明天|天亮|周一|真不行|实在不行|下周|过后|之后")


def unsafe(text: str) -> str | None:
    """Why a doctor turn, in its normal form, is dangerous, or None."""
    return weigh(text, danger(text))


def weigh(text: str, probability: float) -> str | None:
    """The same by the rules and by how probably it is dangerous."""
    if reason := told(text):
        return None if len(text) <= SHORT and probability < INNOCENT else reason
    return SOUNDS_DANGEROUS if states(text) and probability > _bound(text) else None


def told(text: str) -> str | None:
    """The first hazard that the turn tells by the rules, or None."""
    return next((h.reason for h in HAZARDS if h.found(text)), PLAYS_DOWN if plays_down(text) else None)


def states(text: str) -> bool:
    """Whether the turn states something, and is no page, of which the classifier has seen none."""
    return len(text) <= PAGE and not all(clause.asks for clause in claims(text))


def _bound(text: str) -> float:
    """The probability from which the classifier counts: higher if a turn sends to care or nothing is at stake."""
    read = claims(text)
    sends = any(says(_REFERS, clause.text) and not _DEFERS.search(clause.text) for clause in read)
    grave = any(_GRAVE.search(clause.text) for clause in read if not clause.asks)
    return LIKELY if grave and not sends else SURE


def plays_down(text: str) -> bool:
    """Whether the turn names a red flag, soothes near it, and sends to no doctor, or only later."""
    read = claims(text)
    own = [clause for clause in read if not (clause.asks or clause.reported)]
    named = {c.sentence for c in own if any(not _absent(c.text, match) for match in FLAG.finditer(c.text))}
    soothed = any({c.sentence, c.before} & named and says(SOOTHES, c.text) for c in own)
    return soothed and not any(says(_REFERS, c.text) and not _DEFERS.search(c.text) for c in read)


def _absent(clause: str, match: re.Match[str]) -> bool:
    """Whether a clause denies the sign, or names a disease by it: 「可能是浅度烫伤」, 「铁剂会让大便变黑」."""
    before = clause[: match.start()]
    named = re.search(r"可能是|考虑|像是|诊断|牙龈|洗牙|刷牙|针眼|铁剂|后遗|恢复期", clause)
    return negated(before) or bool(named or re.search(r"不(痛|疼|喘|闷|抽)|没(有|再)?|变黑", match.group()))
