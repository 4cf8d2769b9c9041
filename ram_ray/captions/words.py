"""Word lists of the caption rules: scenes, measures, colours, compounds and exceptions.

Each list is short on purpose: it has only words that grammar cannot classify ("a herd of cows" gives the tag cow, "a
bowl of soup" gives both nouns). A wrong word changes every caption that has it, so additions need examples.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    """Words of `text`; an underscore is the space in a phrase."""
    return frozenset(word.replace("_", " ") for word in text.split())


# Heads that name the scene of an image. Every other visible noun is an object.
SCENES = _words("""
    airport alley aquarium arena backyard ballroom barn baseball_field baseball_diamond basement bathroom bay beach
    bedroom boardwalk bus_station cafe cafeteria campground campsite canyon cemetery church city city_street cityscape
    classroom cliff coast coastline concert construction_site countryside courtyard creek crosswalk dance_floor desert
    dining_room dirt_road dock downtown driveway farm field football_field forest garage garden gas_station grass
    grocery_store gym gymnasium hallway harbor highway hill hillside hospital hotel hotel_room intersection jungle
    kitchen lake landscape laundromat lawn library living_room lobby market marketplace marina marsh meadow mountain
    mountainside museum neighborhood night nightclub ocean office orchard park parking_garage parking_lot pasture patio
    pier playground plaza pond pool pub railroad railway ranch restaurant restroom river riverbank road roadside room
    savanna school sea seashore shopping_mall shore sidewalk skate_park skatepark ski_resort ski_slope sky slope snow
    soccer_field square stadium stage store storefront stream street street_corner subway sunrise sunset supermarket
    swamp swimming_pool tennis_court terrace theater town track trail train_station tunnel valley village waterfall
    woods workshop yard zoo
""")

# "a group of dogs" is about dogs. These give no object when "of" follows.
MEASURES = _words("""
    group bunch couple number lot lots pair set kind type sort variety array assortment piece slice picture photo
    photograph image view shot closeup close-up row line pile stack herd flock pack collection series selection
    handful dozen dozens hundred hundreds thousand thousands ton tons plenty load loads amount mixture crowd gang
    bit part portion section half majority rest sea body bed trio duo foursome cluster swarm school litter range
    gathering party portrait pieces stretch patch layer strip stream sheet chunk pound gallon quarter quartet variation
""")

# Nouns that are not visible objects: positions, times, and words about the image itself.
NOT_OBJECTS = _words("""
    front side top background foreground middle center centre back bottom left right edge end inside outside midst
    rear distance direction way position place spot part area corner number kind type sort pair number day morning
    afternoon evening time moment year month week hour minute today spring summer winter fall autumn air midair mid-air
    mid other one ones something someone anything nothing everyone everything thing stuff each lot lots use case order
    addition process preparation while fun attention rest view image shot close-up closeup height level length size
    shape style color colour amount variety bit half behind base point action motion mid-jump mid-flight speed sort
    work course name reason state condition purpose appearance self interior exterior surrounding surroundings set
    piece group bunch inch mile degree age pose halfway angle control progress walk swim run nap stroll jog public
    third second first dark stead high up uphill downhill whole hers mine yours ours theirs whilst
    christmas halloween easter thanksgiving valentine birthday holiday
    mph kph pm am sight scene nearby together upside
    twenty thirty forty fifty sixty seventy eighty ninety
""")

# Adjectives that count, compare or point instead of describing.
NOT_ATTRIBUTES = _words("""
    many several other same own few more most less least such various different multiple numerous certain
    first second third fourth fifth last next another both each every all some any no enough much
    single double dual triple whole entire only front back top bottom left right upper lower middle center rear side
    inner outer nearby available able ready due apparent possible sure main overall additional extra else
    close up-close opposite separate respective particular specific general another like unlike near far
    what which whose that this these those half alone together else away sort nearby
    mid adjacent inside outside upside
""")

NOT_ACTIONS = _words("""
    be have do can could will would may might must shall should 's 're 've 'd ca wo let gon seem appear
""")

COLOURS = _words("""
    black white red green blue yellow orange purple pink brown gray grey gold golden silver tan beige maroon
    turquoise teal violet magenta cyan navy khaki cream burgundy crimson scarlet lavender
""")

# Compounds whose first word could be read as an adjective or a participle.
COMPOUNDS = _words("""
    hot_dog teddy_bear polar_bear high_chair french_fries french_toast ice_cream ice_skate sweet_potato wet_suit
    stuffed_animal stuffed_bear potted_plant remote_control cell_phone mobile_phone dirt_bike dirt_road
    double_decker stop_sign living_room dining_room dining_table christmas_tree golden_retriever german_shepherd
    solar_panel swimming_pool swimming_trunks parking_lot parking_meter parking_garage parking_space shopping_cart
    shopping_mall shopping_bag shopping_center cutting_board skating_rink skating_ramp washing_machine ironing_board
    baking_sheet fishing_pole fishing_rod fishing_boat fishing_net walking_stick sleeping_bag frying_pan
    sewing_machine rocking_chair bathing_suit diving_board climbing_wall climbing_gear hiking_trail hiking_boot
    bowling_alley bowling_ball boxing_ring boxing_glove wedding_dress wedding_cake wedding_ring swimming_suit
    swimming_goggles running_shoe waiting_room changing_table chopping_board rolling_pin mixing_bowl serving_tray
    carving_knife steering_wheel racing_car racing_bike riding_gear rowing_boat sailing_boat hard_hat bald_eagle
    green_bean green_tea fast_food white_board tight_rope wild_flower blue_jay grand_piano wine_glass human_being
    construction_worker floppy_hat bean_bag flip_flop flying_disc climbing_rope climbing_harness tennis_racket
    racing_track dressing_room playing_card playing_field drinking_fountain drinking_glass wading_pool
    wrapping_paper writing_desk knitting_needle electronic_device electric_toothbrush flat_screen lap_top
    traffic_light vending_machine wedding_gown shaving_cream whipped_cream racing_suit training_wheels
    clothing_store dump_truck air_plane air_balloon air_conditioner top_hat back_pack side_walk skateboarding_trick
    senior_citizen fire_truck pick-up_truck watering_can trash_can garbage_can soda_can beer_can tin_can spray_can
    reading_room petting_zoo stained_glass martial_art hot_air sports_team sports_car
    day_cream night_cream face_cream hand_cream eye_cream body_cream sports_field sports_fan
    sports_event sports_game sports_uniform cream_cheese sour_cream brown_sugar white_chocolate hot_sauce hot_chocolate
    hot_pot hot_tub blue_cheese green_onion black_bean red_panda red_fox dutch_oven coffee_table duvet_cover
""")

# Nouns in -ing that name objects: not verbs after another noun or an article.
ING_THINGS = _words("""
    building railing clothing ceiling painting drawing awning crossing icing frosting topping landing bedding string
    evening morning ring king wing thing sling spring swing wedding carving dumpling duckling sibling earring
    lightning pudding stuffing seating lighting siding flooring paneling tiling scaffolding fencing stocking
    sibling herring feeding meeting outing offspring viking lettering filling sing-along opening engraving etching
    piping plumbing sterling setting parking shopping bowling boxing wrestling gathering hang-gliding hearing being
""")

# Nouns in -ing that are no form of a verb that is seen: never a verb.
ING_NOUNS = _words("""
    ceiling pudding lightning evening morning wedding thing king string clothing bedding earring sibling dumpling
    duckling herring viking offspring stocking awning thanksgiving darling inning farthing shilling gosling fledgling
    seedling sapling sterling plumbing scaffolding lettering surroundings
""")

# Nouns of beings: subjects of verbs that are spelled like nouns ("a girl jumps", "two dogs run").
BEINGS = _words("""
    man woman boy girl person people child kid baby toddler infant guy lady gentleman couple group crowd player team
    dog puppy cat kitten horse cow sheep goat bird elephant giraffe zebra bear duck goose monkey lion tiger animal
    rider skier snowboarder skateboarder surfer biker cyclist bicyclist swimmer runner dancer singer musician
    worker climber hiker performer athlete batter pitcher catcher officer policeman fireman soldier student teacher
    teenager adult youth male female mother father parent son daughter brother sister friend bride groom chef cook
    vendor artist clown cowboy family someone somebody other one individual pedestrian shopper customer
    motorcyclist motocross skater gymnast wrestler boxer cheerleader dancer bull pony calf seagull pigeon butterfly
    men women children snowman boater fisherman kayaker jockey biker wakeboarder
""")

# Verbs of drawn and real scenes that are spelled like nouns; only these become the verb of a sentence
# that has no verb ("a red umbrella and a blue anchor stand on the beach").
PLAIN_VERBS = _words("""
    stand sit run jump play walk ride look watch rest climb dance swim fly pose smile wait race hang lie float sleep
    spin roll fall grow shine move wave glow turn slide drive hold work talk gather line march cross paddle hike laugh
    ski skate surf snowboard skateboard wrestle perform cook fish paint drink gaze stare lean share dive sled chase
""")

# Gerunds of purpose: "a hiking backpack" is a kind of backpack, not a backpack that hikes.
PURPOSES = _words("""
    hiking swimming fishing climbing riding racing cooking baking serving shopping parking bathing sleeping washing
    cutting dining living sewing bowling boxing skating skiing surfing wrestling training boarding landing drinking
    eating hunting camping diving jogging gardening wedding running walking sailing rowing drawing painting ironing
    changing rolling steering waiting snowboarding skateboarding cycling biking motocross racing batting
""")

# Adjectives that the tagger often takes for nouns.
ADJECTIVES = _words("""
    vintage antique retro hippie asian african american blond blonde brunette plaid striped checkered teenage round
    square stunning amazing charming interesting brave grand cool calm bold bitter crisp crude cute curious damp
    drunk dull eager faint fancy fierce firm foul fragile frail gentle giant glad grim gross handy harsh hollow
    humble idle innocent intense keen lame large lonely loud lush mad moist narrow neat noble numb odd pale polite
    poor proud pure quiet rapid rare raw rich ripe rough rude rural sacred scarce severe shallow sharp sheer shiny
    shy sick silent silly simple slender slim sly smooth soft sore steady steep stiff strange strict strong sturdy
    subtle sudden swift tall tame tender tense thick thin tight tiny tough vague vain vast vital warm weak weird wet
    wide wise young creepy cozy cosy fluffy fuzzy gloomy grumpy hairy hasty hungry lazy messy muddy nasty noisy
    pretty rusty shabby shady skinny sleepy sloppy smelly sneaky snowy spicy spooky sunny tasty thirsty ugly wacky
    wavy windy yummy nude naked
""")

# Prepositions that the tagger often takes for nouns or adjectives in short texts.
PREPOSITIONS = _words("""
    beneath near inside outside beside behind above below atop underneath onto against amongst amidst alongside
    between towards toward through around over under across along among into upon within without during about
""")

# Participles that form an attribute with the noun before them: "a snow covered street".
JOINED_PARTICIPLES = _words("""
    covered filled lined shaped colored topped sleeved haired eyed faced sized trimmed flavored themed bound laden
    capped paved patterned dusted powered drawn
""")

# Places and times that can be compound modifiers: "an evening gown", "an end table".
KIND_WORDS = _words("""
    christmas halloween easter thanksgiving valentine birthday holiday air day night evening morning summer winter
    corner end place time spring
""")

# Participles that need an object: before a noun they are verbs without an article ("boy wearing hat").
NEVER_DESCRIBING = _words("""
    wearing holding carrying looking using taking making watching eating pulling pushing throwing hitting catching
""")

# Short English words that are also function words of other languages; the lemma tables have the longer ones.
SHORT_ENGLISH = _words("""
    man men die pie car van ten her hat war son ton tan cat hit bat pot end hay dig ad nun bin ham toe boa lei hoe pan
    sin sit ski fan far fin era god bag net arm fit mid mod mud oar tie top tv two one six sad sun set rod dog bar bra
    bun hop hot red tag tap tar tin tub vat vet zoo pen pin pit ear eel egg elf fog fur gas gem gin gum hen jam jar jet
    kit lab lap leg lid lip log mat mop mug nap nut oak owl pad paw pet pig pub rag rat ray rib rug saw sea sky sum tea
    tug wig kan pro mini solo usa non bus cup can kid run bow box mix dj pc ii
""")

# Modifiers of "glasses" for drinking, as opposed to eyeglasses.
DRINKS = _words("wine drinking beer water champagne shot martini cocktail juice pint milk measuring")

# Nouns for the image itself: their attributes do not describe its content.
IMAGE_WORDS = _words("picture photo photograph photography image view shot closeup close-up up scene footage")

# Beings named by species, age or sex, not by an occupation: an -ing form before them is an attribute.
CREATURES = _words("""
    man woman boy girl person people child kid baby toddler dog puppy cat kitten horse cow sheep goat bird elephant
    giraffe zebra bear duck goose monkey lion tiger animal fish seagull pigeon butterfly bull pony calf
""")

# Participles that are attributes after "is": "the window is broken".
STATES = _words("""
    broken closed crowded tired bored excited interested married frozen rusted cluttered deserted abandoned cracked
    scattered worn torn faded wrinkled obsessed amazed delighted pleased worried confused surprised scared
""")

# Abbreviations that name something to be seen; others in capitals are names or codes.
ACRONYMS = _words("""
    tv pc cd dvd suv atm bbq dj led lcd rv atv usb vr hdtv cctv gps cpu lp mri dna ufo bmx lgbt usps nyc vip
""")

# Verbs of talk, trade and text, not of sight: an action only of somebody who is named ("a man buys fruit").
TALK = _words("""
    see become include consider select set get check click view know think believe want need like love hope wish
    mean learn discover find buy shop download order browse enjoy choose feature depict represent locate base
    inspire announce reveal claim say tell ask explain describe name call own belong allow require offer provide
    consist release launch update compare save contact subscribe share post add sell rent book schedule register
    apply compete continue remain stay happen exist suggest recommend highlight showcase suit fit vary range relate
    refer concern note recall remember understand agree discuss determine ensure achieve improve increase reduce
    avoid support establish found report confirm warn urge accuse deny admit approve vote elect appoint star tag
    excite obsess credit fail spot live isolate identify picture
""")

# Verbs of talk that describe no noun as participles: "recently released tables", but "a spotted dog".
TOLD = TALK - frozenset(
    ("spot", "isolate", "love", "tag", "star", "sell", "want", "vary", "picture", "excite", "obsess")
)


# What shows something without an action to be seen.
DRAWINGS = _words("""
    map diagram drawing graph chart video tutorial illustration figure graphic plan panel clip painting sketch portrait
    poster stamp screenshot ad infographic
""")
# What a post tells that its author did: no action at its beginning ("made this", "took the dog out").
POSTED = _words(
    "make take get find try start finish go come use give turn keep help meet identify build upgrade complete"
)
POSTURES = _words("hang lie lean stand sit rest")  # what an image does that is seen in another one
BODY_CARE = _words("cut haircut hair massage tattoo manicure pedicure shave")  # "a baby getting a hair cut"
SHORT_NOUNS = _words("ox ax pi")  # of two letters; all others are codes of states, units and sites
SPEAKERS = _words("i we you u")  # they are not in the image

# Whom a product is for, in listings.
PLURAL_BUYERS = _words("men women boys girls kids ladies mens womens gents unisex toddlers")
BUYERS = PLURAL_BUYERS | _words("""
    man woman boy girl kid lady toddler baby adult adults youth juniors junior infant infants child children
""")

# Words without a capital in titles, and words that begin or join names.
SMALL_WORDS = _words("""
    a an the of in on at for with and or to by from as his her its their my your our is are
""")
PLACES = _words("""
    castle fort peak falls palace abbey cathedral island bridge glacier creek county ridge mount basin cove bluff
    reservoir fjord gorge plateau dam trailhead lighthouse monastery boulevard avenue
""")
# Brands that are common words; before one of these kinds of things, a name.
COMMON_BRANDS = _words(
    "apple fossil shell dove caterpillar lotus target guess diesel jaguar orange galaxy oracle windows"
)
BRANDED = _words("""
    watch phone iphone ipad tv pencil store laptop computer tablet mouse keyboard charger headphones earphones airpods
    logo station truck excavator loader soap lotion shampoo jeans sunglasses perfume car server software handbag shoe
""")
NEW_PLACES = _words("york jersey zealand orleans hampshire mexico england delhi haven brunswick castle")
BEFORE_NAMES = _words("saint st mount fort port san")
BEFORE_MONTHS = _words("in of since early late mid")
NAME_PARTICLES = _words("de del della von der den du des la le les el los las di da dos jr sr ibn y et und")
