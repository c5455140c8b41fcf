//! Which little words are commonest in a language? At most seven bytes each, one letter only where
//! it stands for nothing else.

/// In the order of [`Language::ALL`](crate::language::Language::ALL). A word may be in several lists.
pub(crate) const WORDS: [&str; 19] = [
    // English
    "the of and to in is that it was for on are with as be at this have from or had by not but what \
     all were when we there can an your which their if will each about how up out them then she many \
     some so these would into has more her two him could its who did my than been now any may only \
     over our most after also where does do you they he his should because during while before",
    // German
    "der die das und ist nicht ein eine einen einem einer eines den dem des zu mit sich auf für von im \
     am es ich er sie wir ihr war wird werden wurde haben hat hatte sind auch als an bei nach noch wie \
     aus aber oder wenn nur über um durch dass zum zur vom kann keine kein mehr unter seit bis sehr \
     ihre ihren mein meine diese dieser dieses bitte muss soll sein seine vor gegen was wir uns",
    // French
    "le la les de des du un une et est en que qui dans pour pas sur au aux avec ce cette ces il elle \
     ils elles nous vous je se sa son ses sont ont mais ou où par plus comme leur leurs été être avoir \
     fait sans tout tous très si même aussi deux depuis après avant votre notre mon ma mes quel quelle \
     doit peut était avait faire lors chez entre non",
    // Spanish
    "el la los las de del un una y en que es por para con no se su sus lo al como más pero fue ha son \
     está están este esta estos ser hay muy sin sobre me mi ya todo todos cuando desde hasta \
     entre porque donde quien dos tiene había puede debe le les nos ante qué cómo cuál durante",
    // Portuguese
    "o os a as de do da dos das um uma e em no na nos nas que é não por para com se seu sua como mais \
     mas foi ao aos à pelo pela são está ser tem também muito já sem sobre eu ele ela isso este esta \
     quando até entre porque onde dois você pode deve há foram tinha meu minha qual após desde",
    // Italian
    "il lo la i gli le di del della dei delle un una uno e è in che non per con su si da dal dalla al \
     alla nel nella come più ma sono ha anche questo questa quello se suo sua ci mi ho hanno era stato \
     essere molto senza tra fra dopo prima quando perché dove due può deve cosa ogni degli agli",
    // Dutch
    "de het een en van in is dat op te zijn met voor niet die aan er om ook als maar bij of uit nog naar \
     door over ze hij wij ik je u deze dit wordt worden was heeft hebben had kan kunnen meer tot geen \
     moet na onder hun haar mijn zich dan wat wie waar welke sinds zeer tegen tussen werd",
    // Swedish
    "och att det i en som är på för av med den till inte har de om ett han hon var jag men sig vi från \
     så kan när nu eller efter under vid ska skulle hade man över mycket utan dig mig sina detta denna \
     ingen alla vad hur där mellan också måste blev varit mot finns då ni",
    // Danish or Norwegian
    "og at det er en på af som med til den for ikke de et har der jeg han hun var kan om men sig vi fra \
     så når nu eller efter etter under ved skal ville havde hadde man over meget mye uden uten dig deg mig \
     meg dette denne ingen alle hvad hva hvor mellem mellom også blev ble være været vært mod mot av seg",
    // Finnish
    "ja on ei se että oli hän mutta ovat kun myös tai niin kuin jos joka jotka tämä sen siitä mitä hänen \
     ole olla minä minun sinun voi mukaan sekä vain vielä ennen koska kanssa ilman noin nyt ollut \
     olen tästä siinä mikä miten kuten eli he me",
    // Polish
    "i w na z do nie się to że jest o jak po co tak ale za od przez dla są był była było czy lub oraz \
     także przy ma może jego jej ich tym ten ta te który która które już tylko bardzo bez pod nad gdy \
     jako być aby mnie mi może należy przed więc",
    // Czech or Slovak
    "a je se na v že to s z do o by pro jako za po ale ve si tak jsou byl byla bylo nebo také při má může \
     jeho její jejich ten která které který už jen velmi bez pod nad když být aby mě sa nie čo som sú ako \
     pre bol alebo tiež môže jej ich už len keď byť jsem od podle před kde co",
    // Hungarian
    "a az és hogy nem is egy van volt meg de ez csak már még ha vagy mint ki el azt ezt után által alatt \
     szerint kell lehet minden nagyon nincs vannak lesz sem ezek mert majd mely amely mely itt ott \
     aki ami úgy így mi én ő fel le",
    // Romanian
    "și de la în cu nu pe din că un o este sunt care pentru mai se ce al ale a fost fi sau dar după prin \
     ca au am ai lui ei lor sa său acest acesta când unde foarte fără între până sub poate trebuie \
     avea are era iar cum nici într",
    // Turkish
    "ve bir bu da de için ile çok daha gibi olan olarak en ne var yok değil mi ben sen o biz siz ama veya \
     ya kadar sonra önce her şey oldu olduğu göre bunu buna iki ki hem ise nasıl hiç diye tüm bana sana \
     üzere ancak vardır",
    // Indonesian
    "yang dan di ini itu dengan untuk tidak dari dalam akan pada juga ke saya anda kami kita mereka ada \
     adalah atau oleh telah sudah bisa dapat karena seperti lebih lagi hanya jika saat harus para satu \
     bagi namun belum sangat setelah antara sebagai",
    // Vietnamese
    "và của là có không cho các một trong với những này để đã khi tôi từ như cũng đến bị về \
     nhiều trên thì ra sẽ vì ông bà phải sau hay nào rất nếu còn anh đó nó làm bạn cần",
    // Russian
    "и в не на что он она как это его но они мы вы из за по от для при или так же все был ее их мне еще \
     уже бы до то ли где кто без под где вам мой нет том со об",
    // Ukrainian
    "і в не на що він як це до та але ми ви із за по від для при або так все був її їх ще вже \
     би то чи де хто без під є й у з про має цей ця ці мій вам",
];
