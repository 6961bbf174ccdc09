"""Chinese translations of common class names; a class that is not listed keeps its own name."""

from __future__ import annotations

COLOURS = {
    **{"black": "黑色", "white": "白色", "grey": "灰色", "gray": "灰色", "brown": "棕色", "red": "红色"},
    **{"green": "绿色", "blue": "蓝色", "navy blue": "海军蓝", "purple": "紫色", "pink": "粉色", "beige": "米色"},
    **{"maroon": "栗色", "yellow": "黄色", "olive": "橄榄绿", "silver": "银色", "steel": "钢色", "orange": "橙色"},
    **{"cream": "奶油色", "gold": "金色", "tan": "棕褐色", "charcoal": "炭灰色", "multi": "多色", "khaki": "卡其色"},
    **{"off white": "米白色", "magenta": "洋红色", "copper": "铜色", "lavender": "薰衣草紫", "peach": "桃色"},
    **{"mustard": "芥末黄", "teal": "蓝绿色", "coffee brown": "咖啡色", "rust": "铁锈色", "burgundy": "酒红色"},
    **{"turquoise blue": "绿松石蓝", "grey melange": "麻灰色", "bronze": "古铜色", "taupe": "灰褐色"},
    **{"metallic": "金属色", "sea green": "海绿色", "fluorescent green": "荧光绿", "nude": "裸色", "skin": "肤色"},
    **{"mauve": "淡紫色", "rose": "玫瑰色", "lime green": "青柠绿"},
}
TYPES = {
    **{"tshirts": "T恤", "t-shirt": "T恤", "t-shirt/top": "T恤", "shirts": "衬衫", "shirt": "衬衫", "tops": "上衣"},
    **{"casual shoes": "休闲鞋", "sports shoes": "运动鞋", "formal shoes": "正装鞋", "heels": "高跟鞋"},
    **{"flats": "平底鞋", "sandals": "凉鞋", "sandal": "凉鞋", "flip flops": "人字拖", "sports sandals": "运动凉鞋"},
    **{"sneaker": "运动鞋", "ankle boot": "短靴", "shoes": "鞋", "kurtas": "库尔塔长衫", "kurtis": "库尔蒂短衫"},
    **{"watches": "手表", "handbags": "手提包", "sunglasses": "太阳镜", "sweaters": "毛衣", "pullover": "套头衫"},
    **{"wallets": "钱包", "sweatshirts": "卫衣", "belts": "腰带", "trousers": "长裤", "trouser": "长裤"},
    **{"jeans": "牛仔裤", "socks": "袜子", "jackets": "夹克", "coat": "大衣", "backpacks": "双肩包"},
    **{"briefs": "三角裤", "shorts": "短裤", "innerwear vests": "背心", "caps": "鸭舌帽", "track pants": "运动裤"},
    **{"ties": "领带", "clutches": "手拿包", "mufflers": "围巾", "scarves": "围巾", "dresses": "连衣裙"},
    **{"dress": "连衣裙"},
    **{"accessory gift set": "配饰礼盒", "trunk": "平角裤", "boxers": "平角裤", "skirts": "半身裙", "bag": "包"},
    **{"perfume and body mist": "香水", "cufflinks": "袖扣", "capris": "七分裤", "laptop bag": "电脑包"},
    **{"tunics": "束腰上衣", "stockings": "长筒袜", "leggings": "打底裤", "tights": "紧身裤", "duffel bag": "旅行包"},
    **{"mobile pouch": "手机袋", "deodorant": "止汗香体剂", "tracksuits": "运动套装", "gloves": "手套", "bra": "文胸"},
    **{"messenger bag": "邮差包", "shoe accessories": "鞋类配件", "dupatta": "杜帕塔披肩", "umbrellas": "雨伞"},
    **{"stoles": "披肩", "headband": "发带", "waist pouch": "腰包", "hat": "帽子", "rucksacks": "登山包"},
    **{"waistcoat": "马甲", "sarees": "纱丽", "saree": "纱丽", "bracelet": "手链", "shrug": "短开衫", "bags": "包"},
    **{"topwear": "上装", "bottomwear": "下装", "eyewear": "眼镜", "innerwear": "内衣", "headwear": "帽子"},
    **{"fragrance": "香水", "jewellery": "首饰", "apparel": "服装", "footwear": "鞋类", "accessories": "配饰"},
    **{"personal care": "个人护理用品", "sporting goods": "体育用品", "footballs": "足球"},
}
PEOPLE = {"men": "男士", "women": "女士", "boys": "男童", "girls": "女童", "unisex": "男女通用", "kids": "儿童"}
SEASONS = {"spring": "春季", "summer": "夏季", "fall": "秋季", "autumn": "秋季", "winter": "冬季"}
USES = {
    **{"casual": "休闲", "formal": "正装", "sports": "运动", "ethnic": "民族风", "smart casual": "商务休闲"},
    **{"travel": "旅行", "party": "聚会", "home": "居家"},
}
