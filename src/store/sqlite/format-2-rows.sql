-- What the release of format 2 put into its tables: eight revocations, two of them lifted, five documents, the
-- first of them written again, and a setting.
INSERT INTO documents VALUES(12,1,1,3,'key-2',1,'{"key":"key-2","revision":1}',NULL,-3878898760960175203);
INSERT INTO documents VALUES(13,1,1,4,'key-3',1,'{"key":"key-3","revision":1}',9000,3883279566262694425);
INSERT INTO documents VALUES(14,1,1,1,'key-4',1,'{"key":"key-4","revision":1}',NULL,-9182847582674809755);
INSERT INTO documents VALUES(15,1,1,2,'key-5',1,'{"key":"key-5","revision":1}',NULL,4113336332699500043);
INSERT INTO documents VALUES(16,1,1,2,'key-1',2,'{"key":"key-1","revision":2}',NULL,-2632535058886625915);
INSERT INTO lifts VALUES(9,1,9,1,'lift-of-id-2',1,2,'token-2','id-2',7000,'ops',NULL,2000,2000,-4494272184968769462);
INSERT INTO lifts VALUES(10,1,10,1,'lift-of-id-3',1,2,'token-3','id-3',NULL,'ops',NULL,2000,3000,7677903290693599762);
INSERT INTO names VALUES(1,'01a22484-a47e-76fe-bb46-8e315b4eca65');
INSERT INTO names VALUES(2,'https://a.example/');
INSERT INTO revocations VALUES(1,1,1,1,'id-1',1,2,'token-1',NULL,NULL,1,2,'user-1',NULL,1000,1000,1716982193556806816);
INSERT INTO revocations VALUES(2,1,2,1,'id-2',1,2,'token-2',NULL,NULL,1,2,'user-2',NULL,1000,2000,-1251840815347924341);
INSERT INTO revocations VALUES(3,1,3,1,'id-3',1,2,'token-3',NULL,NULL,1,2,'user-3','note 3',1000,3000,-6373048026430330368);
INSERT INTO revocations VALUES(4,1,4,1,'id-4',1,2,'token-4',NULL,NULL,1,2,'user-4',NULL,1000,4000,-8205944301526571346);
INSERT INTO revocations VALUES(5,1,5,1,'id-5',1,2,'token-5',NULL,NULL,1,2,'user-5',NULL,1000,5000,1805980843456389945);
INSERT INTO revocations VALUES(6,1,6,1,'id-6',1,2,'token-6',NULL,NULL,1,2,'user-6','note 6',1000,6000,-7968667128145613828);
INSERT INTO revocations VALUES(7,1,7,1,'id-7',1,2,'token-7',NULL,NULL,1,2,'user-7',NULL,1000,7000,-8896796877517028101);
INSERT INTO revocations VALUES(8,1,8,1,'cutoff',1,2,'token-8',5000,4000,1,2,'user-8',NULL,1000,8000,9182182904858008372);
INSERT INTO settings VALUES('name','value',2433625548955014639);
INSERT INTO state VALUES(1,'01a22484-a47e-76fe-bb46-8e315b4eca65',16,10,16,-3624815982266282701,3475666120201627471);
