"""Words that British and American people spell in two ways; the forms that tell one from the other.

"practice" and "license" are right in both in some uses, so they are in neither list.
"""

_PAIRS = """
colour color|colours colors|coloured colored|colourful colorful|favourite favorite
favourites favorites|flavour flavor|flavours flavors|honour honor|honours honors|labour labor
neighbour neighbor|neighbours neighbors|neighbourhood neighborhood|behaviour behavior
behaviours behaviors|humour humor|rumour rumor|harbour harbor|armour armor|savour savor
savoury savory|vapour vapor|odour odor|parlour parlor|endeavour endeavor|splendour splendor
centre center|centres centers|centred centered|theatre theater|theatres theaters|metre meter
metres meters|kilometre kilometer|kilometres kilometers|centimetre centimeter
centimetres centimeters|litre liter|litres liters|fibre fiber|fibres fibers|calibre caliber
lustre luster|sombre somber|spectre specter|organise organize|organised organized
organises organizes|organising organizing|organisation organization
organisations organizations|realise realize|realised realized|realises realizes
realising realizing|recognise recognize|recognised recognized|recognises recognizes
recognising recognizing|apologise apologize|apologised apologized|emphasise emphasize
emphasised emphasized|emphasises emphasizes|prioritise prioritize|prioritised prioritized
prioritising prioritizing|summarise summarize|summarised summarized|summarises summarizes
specialise specialize|specialised specialized|specialises specializes|minimise minimize
minimised minimized|minimising minimizing|maximise maximize|maximised maximized
optimise optimize|optimised optimized|optimising optimizing|customise customize
customised customized|memorise memorize|memorised memorized|criticise criticize
criticised criticized|symbolise symbolize|symbolises symbolizes|stabilise stabilize
utilise utilize|utilised utilized|utilising utilizing|finalise finalize|finalised finalized
analyse analyze|analysed analyzed|analyses analyzes|analysing analyzing|paralyse paralyze
catalyse catalyze|travelled traveled|travelling traveling|traveller traveler
travellers travelers|cancelled canceled|cancelling canceling|modelling modeling
modelled modeled|labelled labeled|labelling labeling|fuelled fueled|signalling signaling
levelled leveled|jewellery jewelry|marvellous marvelous|woollen woolen|skilful skillful
fulfil fulfill|fulfils fulfills|enrol enroll|instalment installment|defence defense
offence offense|pretence pretense|catalogue catalog|dialogue dialog|programme program
grey gray|greyish grayish|tyre tire|tyres tires|kerb curb|cheque check|aluminium aluminum
mould mold|mouldy moldy|plough plow|draught draft|cosy cozy|pyjamas pajamas|sceptical skeptical
sceptic skeptic|manoeuvre maneuver|anaemia anemia|paediatric pediatric|oestrogen estrogen
aeroplane airplane|moustache mustache|ageing aging|maths math|mum mom|mums moms|learnt learned
spelt spelled|storey story|yoghurt yogurt|licence license|practise practice
"""
# In these one of the two forms is a common word of the other country too.
_SHARED = {
    *("check", "tire", "tires", "story", "draft", "program", "curb", "analyses", "learned"),
    *("spelled", "license", "practice", "meter", "meters", "dialog", "mold", "aging"),
    *("dialogue", "catalogue"),
}

_pairs = [pair.split() for line in _PAIRS.split("\n") for pair in line.split("|") if pair.strip()]
BRITISH = frozenset(british for british, _ in _pairs) - _SHARED
AMERICAN = frozenset(american for _, american in _pairs) - _SHARED
