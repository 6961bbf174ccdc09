"""The English seed lexicon of aspects and opinions."""

from __future__ import annotations

from models.reviews.aspects.lexicon import AspectWords, Lexicon, words

POSITIVE = words(
    """
        good great excellent amazing awesome fantastic wonderful superb perfect perfectly best better nice nicely
        fine lovely love loved loves loving like liked likes enjoy enjoyed enjoyable enjoys delicious tasty yummy
        fresh delightful delight pleased pleasant pleasantly pleasure happy happier glad satisfied satisfying
        satisfaction impressed impressive impress recommend recommended highly outstanding exceptional exceptionally
        extraordinary terrific incredible incredibly fabulous phenomenal brilliant magnificent marvelous marvellous
        stunning gorgeous beautiful beautifully elegant stylish sleek cute charming cozy comfortable comfy comfort
        warm welcoming friendly friendliest kind courteous polite attentive helpful helped knowledgeable
        professional efficient efficiently prompt promptly quick quickly fast faster fastest speedy responsive
        reliable reliability dependable durable sturdy solid strong robust smooth smoothly easy easier easiest
        easily simple intuitive convenient conveniently useful handy light lightweight portable bright brilliant
        crisp clear clean sharp vivid quiet silent cool powerful affordable inexpensive cheap reasonable reasonably
        bargain deal value worth worthwhile worthy free generous ample plentiful huge spacious roomy authentic fun
        interesting inventive creative innovative unique classic tender juicy moist crispy flavorful flavourful
        savory scrumptious mouthwatering rich succulent heavenly divine top superior finest ideal flawless
        flawlessly seamless seamlessly excited exciting thrilled ecstatic favorite favourite favorites beat win
        winner winning plus bonus advantage improved improvement improves improve upgrade upgraded well cheerful
        accommodating gracious hospitable romantic relaxing relaxed inviting attractive gem treat treasure bravo
        kudos hooked addicted addictive addicting surprised surprisingly praise trendy versatile stable compatible
        accurate precise secure safe sweet hot genuine unbeatable unmatched stellar decent adequate satisfactory ok
        okay reasonable must-try must world-class first-rate top-notch high-quality user-friendly long-lasting
        well-made blown awsome excelent wow yum perfection excellence quality breeze snappy premium effortless
        effortlessly gladly greatest healthy hearty
        """
)
NEGATIVE = words(
    """
        bad worse worst terrible horrible awful poor poorly disappointing disappointed disappointment disappoint
        disappoints mediocre average bland tasteless flavorless dry greasy oily soggy stale cold overcooked
        undercooked burnt burned raw tough chewy rubbery salty spoiled rotten disgusting gross nasty inedible dirty
        filthy smelly stinks stink rude unfriendly arrogant condescending impolite unprofessional incompetent
        clueless inattentive ignored ignore ignoring unhelpful useless worthless pointless slow slowly slower
        slowest sluggish laggy lag lags late delayed delay delays wait waited waiting forever expensive overpriced
        pricey costly rip-off ripoff steep broken broke break breaks breaking defective defect defects faulty flawed
        flaw flaws fail failed fails failing failure failures crash crashed crashes crashing freeze freezes freezing
        froze frozen dead die died dies dying problem problems issue issues trouble troubles bug bugs buggy glitch
        glitches error errors wrong mistake mistakes hate hated hates annoying annoyed annoy annoyance frustrating
        frustrated frustration irritating irritated angry upset unhappy dissatisfied unsatisfied regret avoid beware
        never stay-away waste wasted wasting junk crap crappy garbage trash lousy pathetic ridiculous absurd
        outrageous unacceptable unbearable uncomfortable cramped crowded noisy loud dark dim dull dated
        old-fashioned outdated ugly cheaply flimsy fragile weak thin loose cracked crack cracks scratched scratches
        scratch dent leak leaks leaked torn tear ripped overheat overheats overheating overheated heavy bulky clunky
        awkward difficult hard harder confusing confused complicated complex inconvenient unreliable unstable
        incompatible inaccurate missing lack lacks lacked lacking limited insufficient inadequate small tiny short
        skimpy stingy rip refuse refused refuses refund return returned complain complained complaint complaints
        complaining sadly unfortunately sorry shame shameful embarrassing embarrassed sick ill poisoning hair roach
        bug flies mess messy sloppy careless lacklustre lackluster uninspired unimpressed unimpressive underwhelming
        overrated overhyped boring tired lame lazy weird strange odd suck sucks sucked horrid horrendous atrocious
        dreadful abysmal appalling horrific nightmare disaster disastrous hell pain painful tedious hassle struggle
        struggled unable cannot impossible stuck stopped stop stops quit useless replaced replace replacement repair
        repairs repaired fix fixed denied charge charged charging-problem drain drains drained downside drawback con
        cons downfall downgrade lose loses lost lousy grainy blurry fuzzy choppy faint distorted dropped drops stiff
        sticky finicky flickering flicker bloatware virus viruses spotty touchy cheap-looking unpleasant
        unappetizing watery mushy lukewarm microwaved tasted-like unfair scam fraud fake lie lied lies liar gimmick
        nope meh blah ruin ruined ruins rushed rush shoved snobby snooty pretentious attitude hostile yelled nerve
        worn poorest terribly horribly awfully badly damaged damage unbelievable lukewarm subpar sub-par below so-so
        """
)
NEGATIONS = words(
    """
        not no never none nothing neither nor without hardly barely scarcely cannot n't cant dont doesnt didnt isnt
        wasnt arent werent wont wouldnt couldnt shouldnt aint nobody nowhere lack lacks lacking
        """
)
CONTRASTS = words("""
    but however although though yet except unfortunately whereas while despite nevertheless nonetheless
    """)

ASPECTS = {
    "price": AspectWords(
        terms=words("""
            price prices priced pricing cost costs money value deal bill tab budget fee fees charge charges
            """),
        positive=words("low lower lowest right worth fair cheap small modest good"),
        negative=words("high higher highest steep outrageous exorbitant too"),
        implies_positive=words("cheap inexpensive affordable bargain reasonably-priced well-priced worth discount"),
        implies_negative=words("expensive overpriced pricey costly ripoff rip-off"),
    ),
    "delivery": AspectWords(
        terms=words(
            "delivery deliveries delivered shipping shipment shipped courier parcel package packaging arrival postage"
        ),
        positive=words("fast quick quickly prompt promptly early free on-time intact"),
        negative=words("late slow slowly delayed damaged lost wrong weeks never"),
        implies_positive=words("arrived-early arrived-quickly"),
        implies_negative=words("arrived-late arrived-damaged arrived-broken"),
    ),
    "quality": AspectWords(
        terms=words(
            """
                quality material materials fabric build workmanship craftsmanship construction durability finish
                stitching texture leather hinge hinges seams plastic
                """
        ),
        positive=words("high solid sturdy thick soft premium durable"),
        negative=words("low thin flimsy cheap rough inferior"),
        implies_positive=words("well-made sturdy durable high-quality well-built"),
        implies_negative=words("flimsy defective shoddy poorly-made low-quality faded fell-apart"),
    ),
    "service": AspectWords(
        terms=words(
            """
                service services staff waiter waiters waitress waitresses server servers waitstaff host hostess
                manager management seller sellers support owner owners bartender bartenders employee employees
                representative rep reps vendor salesperson refund refunds return returns warranty bus-boy busboy
                """
        ),
        positive=words("fast quick prompt attentive friendly responsive patient"),
        negative=words("slow rude late pushy unresponsive ignored forgot"),
        implies_positive=words("attentive courteous"),
        implies_negative=words("rude unprofessional unhelpful impolite"),
    ),
    "size": AspectWords(
        terms=words("size sizes sized sizing fit fits fitted fitting length width dimensions"),
        positive=words("true right perfect perfectly exact compact"),
        negative=words("small big large tight loose short long wrong off narrow"),
        implies_positive=words("true-to-size fits-well fits-perfectly"),
        implies_negative=words("too-small too-big too-large too-tight too-loose runs-small runs-large"),
    ),
}

ENGLISH = Lexicon(aspects=ASPECTS, positive=POSITIVE, negative=NEGATIVE, negations=NEGATIONS, contrasts=CONTRASTS)
