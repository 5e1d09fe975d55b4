"""Whether a password is one of the commonest, decided offline.

The list below was written for this project: words, names and keyboard walks that published studies of leaked passwords
keep reporting at the top. No leaked list was copied. A list of words rather than of passwords, because the commonest
passwords are these words with a capital, a year, a `1` or a `!` and letters swapped for look-alikes: the rules here
undo that, so that some 1,100 words stand for hundreds of thousands of passwords.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_WORDS = """
password passwort passwd passw pass passcode passphrase contrasena contraseña senha motdepasse parola haslo heslo sifre
wachtwoord salasana losenord parool geheim secret topsecret letmein letmeinnow openup opensesame sesame changeme changeit
changethis default admin administrator adminadmin administrateur root toor system sysadmin superuser superadmin master
masterkey user username login logon signin guest test tester testing test1234 testtest temp temppass temporary demo sample
example welcome welcomehome hello helloworld hellohello hithere goodbye access accesspoint account security secure computer
internet server service support manager office company business private public nothing whatever something anything
blahblah asdf asdfasdf asdfgh asdfghj asdfghjk asdfghjkl asdfjkl qwer qwert qwerty qwertyu qwertyui qwertyuiop qwertz qwertzu
qwertzuiop azerty azertyuiop zxcv zxcvb zxcvbn zxcvbnm yxcvbnm qweasd qweasdzxc qazwsx qazwsxedc wsxedc edcrfv qazxsw zaqwsx
zaqxsw qwe asd zxc qweqwe asdasd zxczxc qwaszx poiuyt poiuytrewq lkjhgfdsa mnbvcxz dvorak
iloveyou iloveu iloveme ilovegod iloveyouso iloveyoubaby ihateyou loveyou loveme lovely love lover lovers lovelove mylove truelove
babylove baby babygirl babyboy babyface honey honeybee sweetheart sweetie sweety sweet sugar darling angel angels angelo princess
prince princesa princess queen king kingdom kings sexy sexygirl sexybitch sexxy hottie hotgirl beautiful beauty pretty
gorgeous cutie cutiepie kisses kissme hugs forever forever21 foreverlove always happy happiness smile smiley sunshine
sunflower sunny sunday moonlight moon star stars starlight stargate startrek starwars skywalker darthvader yoda jedi lucky luckyone
dragon dragons dragonball dragonfly monkey monkeys monkeyman donkey tiger tigers tigger lion lions lionking panther panthers
eagle eagles falcon falcons hawk hawks phoenix raven ravens bear bears wolf wolves wolfpack coyote fox foxy shark sharks
dolphin dolphins whale fish fishing fisher snake spider spiderman batman superman ironman wolverine hulk captain
america hero heroes superhero joker robin catwoman deadpool marvel avengers pokemon pikachu naruto sasuke goku vegeta
digimon minecraft fortnite roblox warcraft starcraft counterstrike counter playstation nintendo xbox xbox360 zelda mario luigi sonic
gamer games gaming halo doom quake diablo matrix neo trinity morpheus terminator predator alien aliens
football soccer baseball basketball softball volleyball hockey tennis golf golfer golfing cricket rugby boxing wrestling
swimming running runner skater skateboard surfer surfing snowboard racing racer nascar ferrari porsche mercedes
corvette mustang camaro chevy chevrolet ford toyota honda yamaha suzuki kawasaki harley harleydavidson bmw audi
lakers yankees cowboys steelers redsox packers patriots raiders broncos dodgers giants giants redskins rangers penguins bulldog
bulldogs chelsea arsenal liverpool manchester barcelona realmadrid juventus milan celtic everton newcastle tottenham united
cheese chocolate cookie cookies candy cupcake banana bananas apple apples orange oranges cherry strawberry blueberry peaches
pumpkin pepper peppermint ginger coffee cocacola pepsi pizza hamburger chicken turkey bacon butter buttercup peanut popcorn
coconut mango lemon melon watermelon vanilla cinnamon beer whiskey vodka tequila guinness budweiser heineken
flower flowers rose roses daisy lily jasmine violet butterfly butterflies ladybug rainbow rainbows summer winter autumn
spring january february march april may june july august september october november december monday tuesday wednesday
thursday friday saturday weekend holiday christmas easter halloween birthday
freedom liberty peace peaceful justice victory winner winners champion champions legend legends money moneymoney cash
dollar dollars rich gold golden goldfish silver silvers diamond diamonds platinum crystal pearl ruby emerald
black blackie white red blue green greenday yellow purple pink orange brown blackjack bluebird blueeyes redrum
whitey greeneyes blackcat
heaven hell jesus jesuschrist christ god godisgood godbless faith hope grace blessed blessing church bible amen allah
bismillah inshallah buddha krishna ganesh shiva hallelujah trustno trustnoone trustme believe
fuck fucking fuckyou fuckme fuckoff fucker motherfucker shit bullshit bitch bitches asshole dick pussy cunt bastard
whore slut boobs tits penis vagina sex sexsex porn hardcore playboy
music musica rock rocker rockstar rocknroll metal metallica slipknot ironmaiden acdc nirvana beatles queen eminem
tupac biggie hiphop rapper guitar guitarist drummer drums piano violin singer dancer dance dancing ballet disco
michael michelle matthew jessica jennifer jordan jordan23 joshua ashley amanda andrew andrea anthony austin brandon
brittany charlie charlotte chris christian christine christopher daniel daniela danielle david dennis diana edward
elizabeth emily eric florian francis frank gabriel george hannah harry heather henry isabella jack jackson jacob
jake james jamie jason jasper jerry jesse jessie joe john johnny johnson jonathan joseph julia julian justin
karen kathy kelly kenneth kevin kimberly laura lauren leonard linda lisa louis louise lucas lucy luke madison maggie
marcus margaret maria marie marina mark marlboro martin mary mason max maxwell megan melissa mercedes miguel mike
molly monica morgan nathan natalie natasha nicholas nicole nikita oliver oscar pamela patricia patrick paul peter
philip phillip rachel rebecca richard robert roger ronald ronaldo messi beckham ryan samantha samuel sandra sarah scott sean sebastian shannon
simon sophia sophie stephanie stephen steven stephanie steve stewart susan tanya taylor teresa thomas tiffany timothy
tommy tyler valentina vanessa veronica victor victoria vincent walter william williams willie zachary alexander
alexandra alexandru alejandra alejandro alberto antonio carlos carmen cristina eduardo fernando francisco isabel javier jorge jose juan
luis manuel mariana mario martina miguelito pablo ricardo roberto rodrigo sofia
mohammed muhammad mohamed ahmed ali fatima ibrahim hassan hussain omar sergey dmitry ivan natalia olga vladimir tatiana
anastasia svetlana marina yulia
buster bailey shadow bella bandit rocky rusty smokey scooter sparky snoopy snowball snowflake snickers sammy sassy sadie
tucker toby teddy teddybear tinkerbell tweety twilight whiskers winston ziggy zeus cooper dakota dexter duke felix fluffy
garfield gizmo gunner jasper kitty kitten kittycat hellokitty puppy doggy doggie doggy poohbear pooh pookie precious princess
prancer midnight misty muffin patches peaches peanut pebbles pepper
mother mommy mom mummy mama mamapapa father daddy dad papa brother sister sisters family myfamily grandma grandpa friend
friends friendship bestfriend boyfriend girlfriend husband wife children kids baby1
america american canada england london paris france germany deutschland berlin munich italy italia espana spain mexico brasil brazil
argentina portugal poland polska russia moscow ukraine turkey istanbul galatasaray fenerbahce besiktas india mumbai delhi pakistan
china beijing japan tokyo korea seoul vietnam thailand indonesia jakarta bandung philippines manila australia sydney newyork
california texas florida chicago boston dallas denver houston seattle atlanta miami phoenix vegas lasvegas hawaii alaska
michigan oklahoma tennessee virginia
hunter hunting ranger warrior warriors soldier sniper assassin ninja samurai pirate pirates viking vikings knight knights
wizard merlin gandalf magic magical mystery dream dreams dreamer fantasy paradise destiny infinity eternity
nightmare vampire zombie zombies demon devil lucifer satan darkness darkside death killer murder
jackass asshole stupid idiot loser dumbass crazy crazygirl insane psycho maniac freak geek nerd noob pro
gangster gangsta thuglife hustler pimp player playgirl bigdaddy bigboy bigdog fatboy badboy badgirl goodgirl tomboy cowboy
cowgirl playboy homeboy
google facebook twitter instagram youtube yahoo hotmail gmail linkedin microsoft windows apple iphone samsung
nokia android amazon netflix spotify myspace adobe photoshop linux ubuntu redhat oracle cisco database
hacker hackers matrix trustno1 ncc1701 thx1138 bond007 jamesbond goldeneye mission impossible
startfinish abracadabra alohomora hakunamatata pokemongo onepiece supernatural harrypotter hogwarts gryffindor slytherin
hermione lordoftherings middleearth gameofthrones winteriscoming breakingbad heisenberg
abc abcd abcde abcdef abcdefg abcdefgh abcabc aaa bbb xxx zzz xyz
corporate employee customer finance marketing sales staging production development developer deploy docker kubernetes postgres
postgresql mysql mariadb redis mongo mongodb rabbitmq fastapi python django flask
correcthorsebatterystaple
"""
_ROOTS = frozenset(_WORDS.split())

_LOOKALIKES = str.maketrans("@4301!|5$7+8", "aaeoiiissttb")
_MAX_WEAK_AFFIX = 4
_RUNS = (
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890123456789",
    "qwertyuiop",
    "qwertzuiop",
    "azertyuiop",
    "asdfghjkl",
    "zxcvbnm",
    "yxcvbnm",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p",
    "qazwsxedcrfvtgbyhnujmikolp",
    "1q2w3e4r5t6y7u8i9o0p",
    "q1w2e3r4t5y6u7i8o9p0",
    "!qaz@wsx#edc$rfv",
    "!@#$%^&*()",
    "147258369",
    "159357",
    "741852963",
    "zaq12wsxcde34rfv",
    "zaqxswcdevfrbgtnhymjukilop",
)
_DOUBLED = re.compile(r"(.)\1+", re.DOTALL)
_LEADING = re.compile(r"^[\W\d_]+")
_TRAILING = re.compile(r"[\W\d_]+$")
_YEAR_OR_DATE = re.compile(
    r"(?:19|20)\d{2}|(?:0?[1-9]|[12]\d|3[01])[./-]?(?:0?[1-9]|1[0-2])[./-]?(?:(?:19|20)?\d{2})?"
)


def is_common(password: str) -> bool:
    """Whether the password is one that an attacker tries among the first."""
    text = unicodedata.normalize("NFKC", password).casefold()
    if _is_pattern(text):
        return True
    return any(_is_weak(affix) and (core in _ROOTS or _is_pattern(core)) for core, affix in _cores(text))


def is_built_on(password: str, words: tuple[str, ...]) -> bool:
    """Whether the password is little more than one of these words: the user's own name, for instance."""
    text = unicodedata.normalize("NFKC", password).casefold()
    own = {word.casefold() for word in words if len(word) >= 3}
    return any(core in own and _is_weak(affix) for core, affix in _cores(text))


def _cores(text: str) -> set[tuple[str, str]]:
    """What may be the word in a password, each with what stands around it."""
    head = _LEADING.match(text)
    tail = _TRAILING.search(text)
    leading = head.group() if head else ""
    trailing = tail.group() if tail else ""
    candidates = {
        (text, ""),
        (text[: len(text) - len(trailing)], trailing),
        (text[len(leading) :], leading),
        (text[len(leading) : len(text) - len(trailing)], leading + trailing),
    }
    return candidates | {(core.translate(_LOOKALIKES), affix) for core, affix in candidates}


def _is_weak(affix: str) -> bool:
    """Whether digits and signs around a word add next to nothing."""
    digits = affix.strip("!.?*#@$_-+ ")
    return (
        len(affix) <= _MAX_WEAK_AFFIX
        or not digits
        or _YEAR_OR_DATE.fullmatch(digits) is not None
        or _is_pattern(digits)
    )


def _is_pattern(text: str) -> bool:
    """Whether the text needs no word to be guessed: a walk, a repetition, or either with doubled letters."""
    return _is_repetition(text) or _is_walk(text) or _is_walk(_DOUBLED.sub(r"\1", text))


def _is_repetition(text: str) -> bool:
    """Whether the text is one short piece, or one common word, again and again."""
    for length in range(1, len(text) // 2 + 1):
        unit = text[:length]
        is_repeated = unit * (len(text) // length) + unit[: len(text) % length] == text
        if is_repeated and (length <= _MAX_WEAK_AFFIX or unit in _ROOTS or _is_walk(unit)):
            return True
    return False


@lru_cache(maxsize=1)
def _runs() -> tuple[str, ...]:
    return tuple(way for run in _RUNS for way in (run, run[::-1]))


def _is_walk(text: str) -> bool:
    """Whether the text is made of runs along the alphabet, the digits or the keyboard, each of three or more."""
    position = 0
    while position < len(text):
        longest = max(_common_length(text, position, run) for run in _runs())
        if longest < min(3, len(text)):
            return False
        position += longest
    return bool(text)


def _common_length(text: str, position: int, run: str) -> int:
    """How far the text follows the run from here on."""
    best = 0
    start = run.find(text[position])
    while start != -1:
        length = 0
        while (
            position + length < len(text)
            and start + length < len(run)
            and text[position + length] == run[start + length]
        ):
            length += 1
        best = max(best, length)
        start = run.find(text[position], start + 1)
    return best
