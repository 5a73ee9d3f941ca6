from dira_scale.finetune import main

if __name__ == "__main__":
    raise SystemExit(main())
