PRAGMA application_id = 1280068930;
PRAGMA user_version = 1;
CREATE TABLE IF NOT EXISTS identity (
    id INTEGER PRIMARY KEY,
    fields TEXT NOT NULL UNIQUE,
    engine TEXT NOT NULL GENERATED ALWAYS AS (fields ->> '$.engine') VIRTUAL,
    label TEXT NOT NULL GENERATED ALWAYS AS (fields ->> '$.label') VIRTUAL,
    model TEXT NOT NULL GENERATED ALWAYS AS (fields ->> '$.model') VIRTUAL,
    model_sha256 TEXT NOT NULL GENERATED ALWAYS AS (fields ->> '$.model_sha256') VIRTUAL,
    quant TEXT NOT NULL GENERATED ALWAYS AS (fields ->> '$.quant') VIRTUAL,
    prompt_set TEXT NOT NULL GENERATED ALWAYS AS (fields ->> '$.prompt_set') VIRTUAL,
    cpu_model TEXT NOT NULL GENERATED ALWAYS AS (fields ->> '$.cpu_model') VIRTUAL
) STRICT;
CREATE INDEX IF NOT EXISTS identity_by_model ON identity (model_sha256, label);
CREATE TABLE IF NOT EXISTS session (
    id INTEGER PRIMARY KEY,
    identity INTEGER NOT NULL REFERENCES identity (id),
    run_id TEXT NOT NULL,
    started_at TEXT NOT NULL,
    complete INTEGER NOT NULL CHECK (complete IN (0, 1)),
    commit_sha TEXT,
    dirty INTEGER CHECK (dirty IN (0, 1)),
    committed_at TEXT,
    version TEXT NOT NULL,
    executable_sha256 TEXT,
    kernel TEXT,
    versions TEXT NOT NULL,
    place INTEGER NOT NULL,
    measured INTEGER NOT NULL,
    UNIQUE (run_id, started_at, identity)
) STRICT;
CREATE INDEX IF NOT EXISTS session_by_identity ON session (identity, place, measured);
CREATE TABLE IF NOT EXISTS result (
    session INTEGER NOT NULL REFERENCES session (id) ON DELETE CASCADE,
    metric TEXT NOT NULL,
    n INTEGER NOT NULL CHECK (n > 0),
    mean REAL NOT NULL,
    sd REAL,
    launches TEXT NOT NULL,
    PRIMARY KEY (session, metric)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS result_by_metric ON result (metric, session, n, mean, sd);

BEGIN;
INSERT INTO identity (id, fields) VALUES (1, '{"engine":"candle","label":"candle","model":"tiny","model_sha256":"65092656c785a8b8a26b4300b70fa4f3a7e34878537267b5b70e797620ba6e10","quant":"F16","weights":"file","prompt_set":"random","prompts_sha256":"995c741e7417b0dc8221794f2dc81be31acf8a0243c514c9d68d43f600ca044d","device":"cpu","threads":2,"warmup":1,"iterations":1,"page_cache":"warm","cpu_model":"AMD EPYC","cores":2,"processors":2,"ram_bytes":25276502016,"target_cpu":"native","profile":"release","schema":"llm-bench/1"}');
INSERT INTO session (id, identity, run_id, started_at, complete, commit_sha, dirty, committed_at, version, executable_sha256, kernel, versions, place, measured) VALUES (1, 1, '20261127T075024-78eb', '2026-11-27T07:50:25+00:00', 1, 'a7ba2a3103e80c4707f2b61b15d1d5fb88845acd', 0, NULL, '0.1.0', '65f7e0272a3536a5b10059840dcb1aa075c2965ff0a7a9deeb4fa41c6787661b', '6.18.44-fc-v669', '{"candle-core":"0.11.1","llm-bench":"0.1.0"}', 1795765825000, 1795765825000);
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'cold_start_ttft_s', 2, 5.142599875e-1, 1.6149373268402262e-1, '[0.628453301,0.400066674]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'decode_cv', 1, 4.773494110550359e-2, NULL, '[0.04773494110550359]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'decode_tps', 2, 5.973281676754228e0, 2.851342490464468e-1, '[6.174902037803504,5.771661315704951]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'e2e_tps', 2, 5.858160546025137e0, 4.278098004706842e-1, '[6.1606677569960215,5.555653335054252]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'first_generate_ttft_s', 2, 4.718612475e-1, 1.367160393198039e-1, '[0.568534086,0.375188409]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'itl_max_s', 2, 2.007675625e-1, 5.272209373730218e-4, '[0.201140364,0.200394761]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'itl_p50_s', 2, 1.782090495e-1, 7.869928061872e-3, '[0.17264417,0.183773929]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'itl_p95_s', 2, 1.985117112e-1, 3.1249396255148633e-4, '[0.19829074459999999,0.1987326778]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'mbu', 2, 5.321202107858585e-4, 2.540072692291117e-5, '[0.0005500812370401166,0.0005141591845316002]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'memory_activations_bytes', 2, 7.1632e4, 0e0, '[71632.0,71632.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'memory_kv_bytes', 2, 1.26976e5, 0e0, '[126976.0,126976.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'memory_runtime_bytes', 2, 1.1224416e7, 7.686533554210246e4, '[11170064.0,11278768.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'memory_unaccounted_bytes', 2, -2.928e3, 1.1741366680246385e5, '[80096.0,-85952.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'memory_weights_bytes', 2, 1.039936e6, 0e0, '[1039936.0,1039936.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'model_load_s', 2, 6.314725000000001e-4, 2.8270836218619372e-5, '[0.000611482,0.000651463]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'peak_host_bytes', 2, 1.2460032e7, 4.054833126036138e4, '[12488704.0,12431360.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'prefill_tps', 2, 4.619680700962222e1, 3.907838146849548e0, '[48.960065863039006,43.43354815620543]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'sustained_tps', 2, 4.980901474158459e0, 1.30799792131187e-2, '[4.9716525321590845,4.990150416157835]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'tpot_s', 2, 1.676031143333333e-1, 8.000524791800655e-3, '[0.16194588899999998,0.17326033966666665]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'tps_per_gb', 2, 4.7936067513026285e2, 2.1323939906259845e1, '[494.43897763959365,464.2823726209321]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'ttft_s', 2, 1.81824454e-1, 2.5995868642575692e-2, '[0.163442599,0.200206309]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (1, 'warmup_gain', 2, 8.936836667951085e-1, 3.697009176688638e-1, '[1.1551016926896516,0.6322656409005654]');
INSERT INTO session (id, identity, run_id, started_at, complete, commit_sha, dirty, committed_at, version, executable_sha256, kernel, versions, place, measured) VALUES (3, 1, '20261127T075045-79c9', '2026-11-27T07:50:45+00:00', 1, 'a7ba2a3103e80c4707f2b61b15d1d5fb88845acd', 0, NULL, '0.1.0', '65f7e0272a3536a5b10059840dcb1aa075c2965ff0a7a9deeb4fa41c6787661b', '6.18.44-fc-v669', '{"candle-core":"0.11.1","llm-bench":"0.1.0"}', 1795765845000, 1795765845000);
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'cold_start_ttft_s', 2, 3.6379500499999995e-1, 3.950088550010837e-2, '[0.391726349,0.335863661]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'decode_cv', 1, 8.47184135905259e-2, NULL, '[0.0847184135905259]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'decode_tps', 2, 5.998479966608318e0, 5.081817067256075e-1, '[5.6391412357076875,6.357818697508948]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'e2e_tps', 2, 5.741836810161672e0, 1.1859951176221917e0, '[4.903211620036883,6.5804620002864604]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'first_generate_ttft_s', 2, 2.411155975e-1, 2.7021385607330552e-3, '[0.239204897,0.243026298]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'itl_max_s', 2, 2.0365584050000002e-1, 4.638302286532314e-4, '[0.203983818,0.203327863]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'itl_p50_s', 2, 1.6576182750000001e-1, 1.9665067384400516e-2, '[0.17966713,0.151856525]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'itl_p95_s', 2, 1.998664392e-1, 2.3839539442279596e-3, '[0.2015521492,0.1981807292]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'mbu', 2, 2.833004276678485e-4, 2.400076280153763e-5, '[0.00026632932553723144,0.00030027152979846564]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'memory_activations_bytes', 2, 7.1632e4, 0e0, '[71632.0,71632.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'memory_kv_bytes', 2, 1.26976e5, 0e0, '[126976.0,126976.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'memory_runtime_bytes', 2, 1.1545168e7, 1.3323023128404454e5, '[11450960.0,11639376.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'memory_unaccounted_bytes', 2, -8.6112e4, 0e0, '[-86112.0,-86112.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'memory_weights_bytes', 2, 1.039936e6, 0e0, '[1039936.0,1039936.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'model_load_s', 2, 5.63957e-4, 3.221437073729674e-5, '[0.000541178,0.000586736]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'peak_host_bytes', 2, 1.26976e7, 1.3323023128404454e5, '[12603392.0,12791808.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'prefill_tps', 2, 4.3518373918446244e1, 2.1673360251602386e1, '[28.192993913439217,58.843753923453264]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'sustained_tps', 2, 7.06831179435493e0, 2.1248041725754327e0, '[5.56584835523337,8.570775233476489]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'tpot_s', 2, 1.673093075e-1, 1.4174179110329466e-2, '[0.17733196566666667,0.15728664933333333]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'tps_per_gb', 2, 4.722265604328222e2, 3.506700895135092e1, '[447.43044060739265,497.02268025825185]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'ttft_s', 2, 2.098980225e-1, 1.0450743291698739e-1, '[0.283795937,0.136000108]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (3, 'warmup_gain', 2, 1.181397239320996e0, 3.779922357399466e-1, '[0.9141163661934155,1.4486781124485761]');
INSERT INTO identity (id, fields) VALUES (2, '{"engine":"candle-stock","label":"candle-stock","model":"tiny","model_sha256":"65092656c785a8b8a26b4300b70fa4f3a7e34878537267b5b70e797620ba6e10","quant":"F16","weights":"file","prompt_set":"random","prompts_sha256":"995c741e7417b0dc8221794f2dc81be31acf8a0243c514c9d68d43f600ca044d","device":"cpu","threads":2,"warmup":1,"iterations":1,"page_cache":"warm","cpu_model":"AMD EPYC","cores":2,"processors":2,"ram_bytes":25276502016,"target_cpu":"native","profile":"release","schema":"llm-bench/1"}');
INSERT INTO session (id, identity, run_id, started_at, complete, commit_sha, dirty, committed_at, version, executable_sha256, kernel, versions, place, measured) VALUES (2, 2, '20261127T075024-78eb', '2026-11-27T07:50:25+00:00', 1, 'a7ba2a3103e80c4707f2b61b15d1d5fb88845acd', 0, NULL, '0.1.0', '65f7e0272a3536a5b10059840dcb1aa075c2965ff0a7a9deeb4fa41c6787661b', '6.18.44-fc-v669', '{"candle-core":"0.11.1","candle-nn":"0.11.1","candle-transformers":"0.11.1"}', 1795765825000, 1795765825000);
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'cold_start_ttft_s', 2, 1.53371826e-1, 6.353712083571054e-2, '[0.198299355,0.108444297]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'decode_cv', 1, 2.844034942337016e-2, NULL, '[0.02844034942337016]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'decode_tps', 2, 8.266178345296916e3, 2.3509300053614004e2, '[8432.414200185513,8099.942490408318]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'e2e_tps', 2, 4.6069264461281255e3, 7.436019980500458e2, '[5132.732461453179,4081.1204308030724]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'first_generate_ttft_s', 2, 2.63266265e-2, 4.3199536212538804e-3, '[0.029381295,0.023271958]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'itl_max_s', 2, 1.44876e-4, 6.363961030679082e-7, '[0.000145326,0.000144426]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'itl_p50_s', 2, 1.1254750000000001e-4, 8.583569216823501e-6, '[0.000106478,0.000118617]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'itl_p95_s', 2, 1.4164315e-4, 2.856004289212355e-7, '[0.0001414412,0.0001418451]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'mbu', 2, 1.4676192236984447e0, 4.173960354243888e-2, '[1.4971335804073411,1.438104866989548]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'memory_activations_bytes', 2, 0e0, 0e0, '[0.0,0.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'memory_kv_bytes', 2, 1.6896e4, 0e0, '[16896.0,16896.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'memory_runtime_bytes', 2, 1.36668e7, 1.994833082540993e5, '[13807856.0,13525744.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'memory_unaccounted_bytes', 2, 1.83824e5, 3.6203867196751236e2, '[184080.0,183568.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'memory_weights_bytes', 2, 2.297344e6, 0e0, '[2297344.0,2297344.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'model_load_s', 2, 7.6154688e-2, 2.7056343552378837e-2, '[0.095286412,0.057022964]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'peak_host_bytes', 2, 1.6164864e7, 1.9984534692606682e5, '[16306176.0,16023552.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'prefill_tps', 2, 1.7370952305513747e4, 4.801331047749972e3, '[20766.00604809926,13975.898562928229]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'sustained_tps', 2, 9.35433547434831e3, 5.271613754760893e1, '[9391.611412686188,9317.059536010434]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'tpot_s', 2, 1.2102383333333334e-4, 3.441960108555704e-6, '[0.00011859000000000001,0.00012345766666666666]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'tps_per_gb', 2, 5.1131619621905976e5, 8.222082036311955e3, '[517130.08618240803,505502.3062557115]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'ttft_s', 2, 5.16646e-4, 1.3166893951118468e-4, '[0.000423542,0.00060975]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (2, 'warmup_gain', 2, 7.867359306515806e1, 1.0896394557698578e2, '[1.6244482428295044,155.7227378874866]');
INSERT INTO session (id, identity, run_id, started_at, complete, commit_sha, dirty, committed_at, version, executable_sha256, kernel, versions, place, measured) VALUES (4, 2, '20261127T075045-79c9', '2026-11-27T07:50:45+00:00', 1, 'a7ba2a3103e80c4707f2b61b15d1d5fb88845acd', 0, NULL, '0.1.0', '65f7e0272a3536a5b10059840dcb1aa075c2965ff0a7a9deeb4fa41c6787661b', '6.18.44-fc-v669', '{"candle-core":"0.11.1","candle-nn":"0.11.1","candle-transformers":"0.11.1"}', 1795765845000, 1795765845000);
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'cold_start_ttft_s', 2, 1.57300879e-1, 2.1667226800301382e-2, '[0.172621922,0.141979836]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'decode_cv', 1, 1.2942089937543244e0, NULL, '[1.2942089937543244]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'decode_tps', 2, 4.278232183430577e3, 5.536926569165053e3, '[8193.43050741915,363.03385944200244]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'e2e_tps', 2, 2.451432393884078e3, 3.3270041886499225e3, '[4803.979616714486,98.88517105367019]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'first_generate_ttft_s', 2, 6.65633095e-2, 5.915432380638549e-2, '[0.024734886,0.108391733]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'itl_max_s', 2, 3.995528e-3, 5.470442517195296e-3, '[0.000127341,0.007863715]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'itl_p50_s', 2, 1.784105e-4, 8.089372287452222e-5, '[0.00012121,0.000235611]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'itl_p95_s', 2, 3.6138162499999996e-3, 4.931487637763217e-3, '[0.0001267279,0.007100904599999999]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'mbu', 2, 4.027005556822206e-1, 5.21178680953794e-1, '[0.7712295351945084,0.03417157616993273]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'memory_activations_bytes', 2, 0e0, 0e0, '[0.0,0.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'memory_kv_bytes', 2, 1.6896e4, 0e0, '[16896.0,16896.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'memory_runtime_bytes', 2, 1.358756e7, 1.7917520149842164e5, '[13460864.0,13714256.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'memory_unaccounted_bytes', 2, 1.83192e5, 3.959797974644666e2, '[182912.0,183472.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'memory_weights_bytes', 2, 2.297344e6, 0e0, '[2297344.0,2297344.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'model_load_s', 2, 3.6307109500000004e-2, 1.1360529574501028e-2, '[0.044340217,0.028274002]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'peak_host_bytes', 2, 1.6084992e7, 1.795711812958861e5, '[15958016.0,16211968.0]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'prefill_tps', 2, 9.475189069291151e3, 1.2999416259314186e4, '[18667.164457718874,283.21368086342505]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'sustained_tps', 2, 7.2938369536354785e3, 1.7109914376093172e3, '[8503.690601721146,6083.98330554981]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'tpot_s', 2, 1.4383064999999998e-3, 1.861469208075304e-3, '[0.00012204900000000001,0.0027545639999999997]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'tps_per_gb', 2, 2.679148094386102e5, 3.4722033731708454e5, '[513436.6645214011,22392.95435581926]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'ttft_s', 2, 1.63268815e-2, 2.2429972278565583e-2, '[0.000466496,0.032187267]');
INSERT INTO result (session, metric, n, mean, sd, launches) VALUES (4, 'warmup_gain', 2, 1.363041993479293e0, 3.6132602279429266e-1, '[1.6185380744163023,1.1075459125422835]');
COMMIT;
